"""What the health API says of a plugin: `health_model` is a pure view of registry records, `listing` keeps the text
that it made last. Must not know: engines, containers, anything that can wait.
"""
