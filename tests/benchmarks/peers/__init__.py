"""Servers of others, measured beside this one: the same tools, one machine, in rounds.

`python -m benchmarks.peers` (tests/ on the path), or `make bench-peers`. `adapters/` has a module for each
peer, `apps/` the tools as each peer wants them; what is in `apps/` runs in the peer's own environment, where nothing of
this project is installed.
"""
