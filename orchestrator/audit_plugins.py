"""`python -m orchestrator.audit_plugins`: the audit by itself, as CI calls it; the same as `orchestrator audit`."""

import typer

from orchestrator.cli.audit import audit

if __name__ == "__main__":
    typer.run(audit)
