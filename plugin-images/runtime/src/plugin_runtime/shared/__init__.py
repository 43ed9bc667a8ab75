"""What both processes of a container use: settings, processes, the shared table of runs, kernel counters, sockets.

Loaded by the supervisor, whose memory counts once per instance: no third-party module, and only small ones of Python's.
"""
