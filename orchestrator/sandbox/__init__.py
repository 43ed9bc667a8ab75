"""The sandbox: what a plugin's container may do (`policy`), the way into it (`channel`), one call that never raises
(`sandbox_runner`), and what an end means (`verdict`). Must not know: who owns the instances, HTTP towards callers.
"""
