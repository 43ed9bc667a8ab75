"""Owns the instances: starts, watches, stops and removes them; one writer a plugin. Must not know: HTTP, callers."""
