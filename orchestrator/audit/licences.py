"""The licences of what a plugin's image holds, as the distributions in it tell. Pure."""

import json
import re
from collections.abc import Iterator
from typing import Final

from orchestrator.audit.findings import Finding, error, settled, warning

PROGRAM: Final = """
import importlib.metadata as metadata, json
def told(of):
    names = [c.split(' :: ')[-1] for c in of.get_all('Classifier') or () if c.startswith('License ::')]
    return of.get('License-Expression') or '; '.join(names) or (of.get('License') or '').strip().split(chr(10))[0][:120]
there = [d for d in metadata.distributions() if d.metadata['Name']]
print(json.dumps({d.metadata['Name']: [d.version, told(d.metadata)] for d in there}))
"""
"""Run by the image's own Python; prints name → [version, licence] as one line of JSON."""

_REFUSED: Final = re.compile(
    r"\b(AGPL|Affero|SSPL|Server Side Public|BUSL|Business Source|Commons Clause|non-?commercial|CC-BY-NC)",
    re.IGNORECASE,
)
"""Whoever offers a plugin as a service takes on duties, or may not, by these."""
_OURS: Final = frozenset({"plugin-runtime", "plugin_runtime", "pip", "setuptools", "wheel"})


def licence_findings(plugin: str, output: str) -> list[Finding]:
    """From what `PROGRAM` printed in the plugin's image."""
    try:
        told = json.loads(output.strip().splitlines()[-1])
        pairs = {str(name): (str(version), str(licence)) for name, (version, licence) in told.items()}
    except (ValueError, IndexError, TypeError, AttributeError):
        return [warning(plugin, "licences", "The image did not tell the licences of what it holds.")]
    return settled(plugin, "licences", list(_findings(plugin, pairs)), f"{len(pairs)} distributions")


def _findings(plugin: str, pairs: dict[str, tuple[str, str]]) -> Iterator[Finding]:
    for name, (version, licence) in sorted(pairs.items()):
        if name in _OURS:
            continue
        if _REFUSED.search(licence):
            yield error(plugin, "licences", f"{name} {version} is under {licence}: replace it, or get a licence.")
        elif not licence or licence.upper() == "UNKNOWN":
            yield warning(plugin, "licences", f"{name} {version} does not tell its licence: look it up.")
