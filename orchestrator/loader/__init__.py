"""From a folder to something that can be started: manifest, discovery, host-side checks, image.

Must not know: containers that run, states, HTTP.
"""
