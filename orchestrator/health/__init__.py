"""The health API's answers: `health_model` is a pure view of registry records, `listing` caches the encoded list. Must
not know: engines, containers, anything that can wait.
"""
