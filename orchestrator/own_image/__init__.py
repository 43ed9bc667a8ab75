"""Entry point and health check of the orchestrator's own image. Import nothing else of `orchestrator`."""

# The health check runs every ten seconds, and an import of the whole takes longer than the check.
