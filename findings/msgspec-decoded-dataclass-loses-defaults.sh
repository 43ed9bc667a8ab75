#!/usr/bin/env bash
# msgspec: a plain dataclass that msgspec itself decoded is encoded without the fields that were left at their defaults; the same
# object made by its class is encoded whole.
#
# Seen with msgspec 0.22.0 on Python 3.11. For `Point(x: float, y: float = 0.0, tags: list = field(default_factory=list))` and the input {"x": 1}:
#   made by the class, Point(1.0)       {"x":1.0,"y":0.0,"tags":[]}
#   decoded, then encoded               {"x":1.0,"tags":[]}            (== Point(1.0) is True)
#   the same with slots=True            {"x":1.0,"y":0.0,"tags":[]}
# Decoding leaves a default that is a plain value to the class attribute, and encoding reads the instance's own __dict__. So a service that decodes an
# argument into a dataclass and returns it loses fields, depending on what its caller left out. dataclasses.asdict has them all.
#
# Needs python3 with venv, and a package index. Exits 0 while the behaviour is as described, 1 once it has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check msgspec==0.22.0

"$work/venv/bin/python" - <<'PYTHON'
import sys
from dataclasses import asdict, dataclass, field

import msgspec


@dataclass
class Point:
    x: float
    y: float = 0.0
    tags: list = field(default_factory=list)


@dataclass(slots=True)
class SlottedPoint:
    x: float
    y: float = 0.0
    tags: list = field(default_factory=list)


whole = b'{"x":1.0,"y":0.0,"tags":[]}'
made, decoded = Point(1.0), msgspec.json.decode(b'{"x": 1}', type=Point)
slotted = msgspec.json.decode(b'{"x": 1}', type=SlottedPoint)
seen = {
    "made by the class": msgspec.json.encode(made),
    "decoded, then encoded": msgspec.json.encode(decoded),
    "decoded, with slots": msgspec.json.encode(slotted),
}
for what, text in seen.items():
    print(f"{what:24} {text.decode()}")
as_described = (
    made == decoded
    and asdict(decoded) == {"x": 1.0, "y": 0.0, "tags": []}
    and list(seen.values()) == [whole, b'{"x":1.0,"tags":[]}', whole]
)
sys.exit(0 if as_described else "the behaviour has changed")
PYTHON
