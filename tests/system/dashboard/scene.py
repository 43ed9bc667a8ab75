"""A harness as an operator sees it: plugins in every state, with runs, logs and GPUs."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.checkout import PROJECT
from support.gpus import GIB, device
from support.harness import Harness

MIB = 1024**2
HUNG = 'Thread 0x7f31 (most recent call first):\n  File "/plugin/upscaler/tiles.py", line 88 in blend\n'


def read_words(image: bytes, language: str = "eng", min_confidence: float = 0) -> dict[str, Any]:
    """Read the words of a picture, each with its box in pixels and its confidence from 0 to 100."""
    words = [
        {"text": "generous", "x": 330, "y": 172, "width": 110, "height": 36, "confidence": 96.1},
        {"text": "<b>mind</b>", "x": 450, "y": 172, "width": 70, "height": 30, "confidence": 91.4},
    ]
    return {"language": language, "width": 1065, "height": 1879, "words": words}


def count(start: int = 3) -> Iterator[Any]:
    """Count down; each number is sent as it comes."""
    for number in range(start, 0, -1):
        yield {"event": "progress", "fraction": (start - number) / start, "message": f"{number} to go"}
        yield {"frame": start - number, "time_seconds": (start - number) / 10, "left": number}


def blur(image: bytes, strength: int = 3) -> dict[str, Any]:
    """Blur the faces of a picture."""
    raise ValueError("cannot reshape array of size 12 into shape (3,3)")


async def upscale(image: bytes, factor: int = 2) -> dict[str, Any]:
    """Make a picture larger."""
    await asyncio.sleep(60)
    return {}


def depth(image: bytes) -> dict[str, Any]:
    """How far away everything is."""
    return {"nearest_metres": 0.8}


def furnish(harness: Harness) -> None:
    """Nine plugins; open the harness, then `live_a_little`."""
    h100: dict[str, Any] = {"name": "NVIDIA H100 80GB HBM3", "memory_total": 80 * GIB}
    harness.gpus.devices = (
        device(0, memory_used=31 * GIB, utilization=64, temperature=58, **h100),
        device(1, memory_used=1 * GIB, utilization=0, temperature=34, **h100),
    )
    harness.gpus.fault = None
    harness.engine.device_drivers = ("nvidia",)
    harness.add("ocr", tools={"read_words": read_words}, description="Reads the text of scanned pages and photographs.")
    harness.add("motion-detector", tools={"count": count}, description="Finds what moves in videos.")
    harness.add("depth-map", tools={"depth": depth}, requires_gpu=True, description="Estimates depth from one picture.")
    harness.add("face-blur", tools={"blur": blur}, description="Blurs faces.")
    harness.add(
        "upscaler",
        tools={"upscale": upscale},
        stacks=HUNG,
        limits={"timeout": "200ms"},
        description="Makes pictures larger, four times at most.",
    )
    harness.add("captioner", models={"weights": "models/caption.onnx"}, description="Says what is in a picture.")
    harness.add("archive", tools={"count": count}, description="Looks pictures up in the archive.")
    harness.add("warming-up", start=[(3600, {})], startup_timeout="2h", description="Loads a large model.")
    harness.write_raw("broken", "version: 1\nentrypoint: 7\nlimit: {}\n")


async def live_a_little(harness: Harness) -> None:
    """Runs, failures and log lines, until every plugin is in the state that it stays in."""
    for name in ("ocr", "motion-detector", "depth-map", "face-blur", "upscaler", "archive"):
        await harness.settled(name)
    picture = {"image": ""}
    harness.instance("ocr").set_status(
        memory={"oom_kills": 0, "usage_bytes": 412 * MIB, "peak_bytes": 610 * MIB, "limit_bytes": GIB}
    )
    harness.instance("motion-detector").set_status(
        memory={"oom_kills": 0, "usage_bytes": 952 * MIB, "peak_bytes": 970 * MIB, "limit_bytes": GIB}
    )
    chance = random.Random(7)
    for number in range(24):
        harness.instance("ocr").handle.log(f"read page {number} in {chance.randint(80, 400)} ms")
        await harness.run("ocr", "read_words", **picture)
    for _ in range(5):
        await harness.run("motion-detector", "count", start=2)
    harness.instance("face-blur").handle.log("loading cascade from /models/face.xml")
    harness.instance("face-blur").handle.log("3 faces found")
    await asyncio.gather(
        harness.run("face-blur", "blur", **picture),
        harness.run("upscaler", "upscale", **picture),
        harness.client.post("/v1/plugins/archive/stop"),
    )
    for name in ("face-blur", "upscaler", "archive", "captioner"):
        await harness.until_removed(name)


def sample(plugin: str, name: str) -> Path:
    """A picture or video that ships with a plugin."""
    return PROJECT / "plugins" / plugin / "samples" / name
