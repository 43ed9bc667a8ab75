"""`python -m orchestrator.audit_plugins`: the same as `orchestrator audit`, as CI calls it."""

import typer

from orchestrator.cli.audit import audit

if __name__ == "__main__":
    typer.run(audit)
