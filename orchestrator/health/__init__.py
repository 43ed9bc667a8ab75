"""What the health API says of a plugin: a pure view of registry records. Must not know: engines, containers, anything
that can wait.
"""
