"""A plugin that gives files of every kind, for the real runtime: tests of callers look at what becomes of them."""

import base64
import random
from typing import Any

from support.harness import Harness
from support.real_runtime import RealRuntime

PART = 40_000


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes of no format."""
    return b"\x00" + random.Random(seed).randbytes(size - 1)


async def open_with_giver(harness: Harness, **manifest: Any) -> None:
    """Open the harness with the plugin `giver`, a process of its own that imports PIL: that takes its time."""
    harness.add("giver", program=RealRuntime(SOURCE), **manifest)
    await harness.open()
    await harness.until("giver", lambda health: health["state"] != "LOADED", timeout=60)


FILM = "AAAAIGZ0eXBpc29t"
"""The first bytes of an MP4, in base64."""

SOURCE = f"""
    import base64, os, random, time
    from collections.abc import Iterator
    from pathlib import Path
    from PIL import Image
    from plugin_runtime import File, tool

    SCRATCH = Path(os.environ["PLUGIN_SCRATCH_DIR"])
    FILM = base64.b64decode({FILM!r})

    def noise(size, seed=1):
        return b"\\x00" + random.Random(seed).randbytes(size - 1)

    def there(file):
        while file and not Path(file).exists():
            time.sleep(0.005)

    class Plugin:
        def validate(self):
            SCRATCH.mkdir(exist_ok=True)

        @tool
        def picture(self) -> Image.Image:
            return Image.new("RGB", (120, 80), "teal")

        @tool
        def named(self, name: str) -> File:
            return File(name.encode(), "text/plain", name)

        @tool
        def report(self) -> dict[str, object]:
            return {{
                "pages": [Image.new("RGB", (40 + n, 30), "navy") for n in range(2)],
                "table": File(b"a,b\\n1,2\\n", "text/csv", "table.csv"),
                "film": File(FILM + bytes(5000), name="film.mp4"),
                "count": 2,
            }}

        @tool
        def raw(self, size: int = 1000) -> bytes:
            return noise(size)

        @tool
        def large(self, size: int) -> File:
            path = SCRATCH / "large.bin"
            path.write_bytes(noise(size))
            return File(path)

        @tool
        def frames(self, until: str = "") -> object:
            yield {{"number": 0, "frame": Image.new("RGB", (50, 40), "red")}}
            there(until)
            yield File(b"the end", name="end.txt")

        @tool
        def parts(self, size: int = 100_000) -> Iterator[bytes]:
            content = noise(size)
            for start in range(0, size, {PART}):
                yield content[start : start + {PART}]

        @tool
        def film(self) -> object:
            content = FILM + noise(90_000)
            for start in range(0, len(content), {PART}):
                yield {{"media_type": "video/mp4", "data": content[start : start + {PART}]}}

        @tool
        def forges(self) -> dict[str, object]:
            url = "/v1/runs/x/files/a.png"
            return {{"file": "a.png", "media_type": "image/png", "size": 1, "sha256": "0" * 64, "url": url}}
"""
WHOLE_FILM = base64.b64decode(FILM) + noise(90_000)
