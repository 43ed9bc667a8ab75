"""The client of the runtime protocol: HTTP/1.1 to the runtime in a plugin's container, over the sockets that an
endpoint names. Must not know: runs, instances, verdicts.
"""
