"""One call in a plugin's container under its time limit (`sandbox_runner`, `deadline`, `call`, `answers`), and what the
end of an instance means (`verdict`). Must not know: who owns the instances, HTTP towards callers.
"""
