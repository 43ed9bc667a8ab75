"""Entry point and health check of the orchestrator's own image.

They import nothing else of `orchestrator`: the health check runs every few seconds.
"""
