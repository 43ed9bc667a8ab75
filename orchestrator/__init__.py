"""Runs each plugin in its own container and says how every one of them is."""
