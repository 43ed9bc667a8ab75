"""Prometheus texts of several hosts in one: each series with the label `host`, each family described once. Pure."""

import re
from collections.abc import Mapping
from typing import Final

_SERIES: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(.*)\})?( .+)", re.DOTALL)
_SUFFIXES: Final = ("_bucket", "_sum", "_count", "_total")


def merged_metrics(texts: Mapping[str, str]) -> str:
    """`texts`: by host, in the format of Prometheus's version 0.0.4. A line that is none of it is left out."""
    about: dict[str, list[str]] = {}
    series: dict[str, list[str]] = {}
    for host, text in texts.items():
        for line in text.split("\n"):
            if line.startswith("# "):
                kind, _, rest = line[2:].partition(" ")
                name = rest.partition(" ")[0]
                lines = about.setdefault(name, [])
                if kind in ("HELP", "TYPE") and not any(known.startswith(f"# {kind} ") for known in lines):
                    lines.append(line)
            elif found := _SERIES.fullmatch(line):
                series.setdefault(_family(found[1], about), []).append(_with_host(found, host))
    families = dict.fromkeys((*about, *series))
    return "".join(f"{line}\n" for name in families for line in (*about.get(name, ()), *series.get(name, ())))


def _with_host(found: re.Match[str], host: str) -> str:
    labels = f'host="{host}"' + (f",{found[3]}" if found[3] else "")
    return f"{found[1]}{{{labels}}}{found[4]}"


def _family(name: str, about: Mapping[str, object]) -> str:
    """The family that a series is of, by what was described before."""
    if name in about:
        return name
    return next((short for end in _SUFFIXES if (short := name.removesuffix(end)) in about), name)
