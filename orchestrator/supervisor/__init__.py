"""Owns the instances: starts, watches, stops and clears them away; one writer a plugin. Must not know: HTTP, callers."""
