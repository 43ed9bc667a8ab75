"""The audit of plugin folders and of a running orchestrator. It reads and queries; it changes nothing.

`source`, `static_checks` and `live_checks` are pure; `auditor` has the effects.
"""
