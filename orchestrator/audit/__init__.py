"""The audit: what plugin folders promise, and what a running orchestrator keeps. Reads and asks; changes nothing.

`source`, `static_checks`, `live_checks` and `licences` are pure over what they are handed; `auditor` has the effects.
"""
