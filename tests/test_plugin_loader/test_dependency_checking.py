"""A missing dependency makes a plugin UNAVAILABLE, with what to do in its reason."""

from typing import Any

import pytest
from support.harness import Harness

GGUF = b"GGUF" + bytes(range(1, 60))


def dependencies(health: dict[str, Any]) -> list[dict[str, Any]]:
    """The checks of packages and models."""
    return [check for check in health["checks"] if check["name"].startswith(("package:", "model:"))]


async def test_a_missing_package_is_reported_by_the_container(harness: Harness) -> None:
    """Its view counts, even where the package is installed on the host."""
    checks = [
        {"name": "package:cv2", "ok": True, "detail": "found"},
        {"name": "package:torch", "ok": False, "detail": "not found"},
    ]
    reason = "The package torch is missing. Add it to requirements.txt, then restart."
    harness.add(
        "reader",
        packages=["cv2", "torch"],
        start=[(0.0, {"phase": "failed", "reason_code": "PACKAGE_MISSING", "reason": reason, "checks": checks})],
    )
    await harness.open()
    health = await harness.settled("reader")
    assert (health["state"], health["reason_code"], health["reason"]) == ("UNAVAILABLE", "PACKAGE_MISSING", reason)
    assert [(c["name"], c["ok"], c["source"]) for c in dependencies(health)] == [
        ("package:cv2", True, "container"),
        ("package:torch", False, "container"),
    ]


async def test_a_missing_model_is_found_before_anything_is_built(harness: Harness) -> None:
    """The host sees it: no image is built, no container started."""
    harness.add("reader", image="base", models={"weights": "models/w.gguf"})
    await harness.open()
    health = await harness.settled("reader")
    assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "MODEL_MISSING")
    assert "w.gguf" in health["reason"]
    assert str(harness.plugins) not in health["reason"]
    assert not {"build", "create", "start"} & set(harness.engine.calls)


@pytest.mark.parametrize("content", [b"", GGUF[:8], bytes(64), b"<!DOCTYPE html><html></html>"])
async def test_a_corrupt_model_is_found_before_anything_is_built(harness: Harness, content: bytes) -> None:
    """By its first sixteen bytes."""
    harness.add("reader", image="base", models={"weights": "w.gguf"}, files={"w.gguf": content})
    await harness.open()
    health = await harness.settled("reader")
    assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "MODEL_CORRUPT")
    assert "w.gguf" in health["reason"]
    assert not {"build", "create", "start"} & set(harness.engine.calls)


async def test_a_present_model_is_mounted_and_reported(harness: Harness) -> None:
    """Read-only, at the path that the plugin gets."""
    harness.add("reader", models={"weights": "w.gguf"}, files={"w.gguf": GGUF})
    await harness.open()
    health = await harness.settled("reader")
    mount = next(m for m in harness.instance("reader").spec.mounts if m.target == "/models/weights/w.gguf")
    assert health["state"] == "INITIALIZED"
    assert (mount.source.read_bytes(), mount.read_only) == (GGUF, True)
    assert [(c["name"], c["ok"], c["source"]) for c in dependencies(health)] == [("model:weights", True, "host")]


async def test_a_folder_is_mounted_as_it_is_and_stays_out_of_the_image(harness: Harness) -> None:
    """Read-only, whole, and at the path that the plugin gets."""
    files = {"nets/minilm/config.json": b"{}", "nets/minilm/1_Pooling/config.json": b"{}", "reader/plugin.py": b""}
    harness.add("reader", image="base", models={"minilm": "nets/minilm"}, files=files)
    await harness.open()
    health = await harness.settled("reader")
    spec = harness.instance("reader").spec
    mount = next(m for m in spec.mounts if m.target == "/models/minilm/minilm")
    assert health["state"] == "INITIALIZED"
    assert (mount.source, mount.read_only) == ((harness.plugins / "reader" / "nets" / "minilm").resolve(), True)
    assert spec.environment["PLUGIN_MODELS"] == '{"minilm": "/models/minilm/minilm"}'
    (check,) = dependencies(health)
    assert (check["name"], check["detail"]) == ("model:minilm", "2 files that fit what their names say")
    assert str(harness.plugins) not in str(health)


async def test_the_log_has_the_whole_path_of_what_is_missing(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """Which callers must not see, and an operator needs at night."""
    harness.add("reader", models={"weights": "w.gguf"})
    harness.add("vault", secrets=["KEY"])
    client = await harness.open()
    await harness.until_state("reader", "UNAVAILABLE")
    await harness.until_state("vault", "UNAVAILABLE")
    state = harness.settings.state_dir
    for path in (harness.plugins / "reader" / "w.gguf", state / "secrets" / "vault" / "KEY"):
        assert f"It is {path} on this host." in caplog.text
        for route in ("/v1/plugins", "/v1/events", "/v1/plugins/reader/health", "/v1/plugins/vault/health"):
            assert str(path) not in (await client.get(route)).text


async def test_a_model_that_was_missing_is_found_at_the_next_restart(harness: Harness) -> None:
    """Putting the file there and restarting is enough."""
    harness.add("reader", models={"weights": "w.gguf"})
    client = await harness.open()
    await harness.until_state("reader", "UNAVAILABLE")
    (harness.plugins / "reader" / "w.gguf").write_bytes(GGUF)
    answer = await client.post("/v1/plugins/reader/restart", params={"wait": 5})
    assert (answer.json()["state"], answer.json()["generation"]) == ("INITIALIZED", 2)


async def test_cuda_that_does_not_work_is_reported_by_the_container(harness: Harness) -> None:
    """A GPU alone is not enough."""
    reason = "The container has a GPU, but CUDA does not work in it: driver too old. Update the driver, then restart."
    harness.add("tracker", start=[(0.0, {"phase": "failed", "reason_code": "CUDA_UNAVAILABLE", "reason": reason})])
    await harness.open()
    health = await harness.settled("tracker")
    assert (health["state"], health["reason_code"], health["reason"]) == ("UNAVAILABLE", "CUDA_UNAVAILABLE", reason)


async def test_a_prebuilt_image_that_cannot_be_pulled_is_named(harness: Harness) -> None:
    """In the plugin's reason."""
    harness.add("reader", image="registry.example/reader:3")
    await harness.open()
    health = await harness.settled("reader")
    assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "IMAGE_MISSING")
    assert "registry.example/reader:3" in health["reason"]


async def test_a_prebuilt_image_is_fetched_and_run(harness: Harness) -> None:
    """Nothing is built for it."""
    runtime = harness.add("reader", image="registry.example/reader:3", tools={"read": lambda: 1})
    harness.engine.image_store.registry["registry.example/reader:3"] = runtime
    await harness.open()
    await harness.settled("reader")
    assert (await harness.run("reader", "read")).json()["result"] == 1
    assert "build" not in harness.engine.calls


async def test_the_last_lines_of_a_failed_build_are_stored(harness: Harness) -> None:
    """FAILED; the output is in the post-mortem and among the logs."""
    harness.engine.image_store.build_output = ["Step 1/3", "Collecting torch==99"]
    harness.engine.image_store.build_error = "No matching distribution found for torch==99"
    harness.add("reader", image="base")
    client = await harness.open()
    health = await harness.until_removed("reader")
    logs = await client.get("/v1/plugins/reader/logs")
    assert (health["state"], health["reason_code"]) == ("FAILED", "BUILD_FAILED")
    assert "torch==99" in health["post_mortem"]["build_output"]
    assert "torch==99" in logs.text


async def test_an_unreachable_engine_makes_plugins_unavailable(harness: Harness) -> None:
    """The orchestrator still serves, and a restart suffices once the engine is back."""
    harness.engine.set_reachable(False)
    harness.add("reader")
    client = await harness.open()
    health = await harness.settled("reader")
    assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "ENGINE_UNREACHABLE")
    harness.engine.set_reachable(True)
    answer = await client.post("/v1/plugins/reader/restart", params={"wait": 5})
    assert answer.json()["state"] == "INITIALIZED"


@pytest.mark.parametrize("call", ["create", "start"])
async def test_an_engine_that_refuses_is_quoted(harness: Harness, call: str) -> None:
    """Its message is what the operator needs; no container is left behind."""
    harness.engine.refuse[call] = "no space left on device"
    harness.add("reader")
    await harness.open()
    health = await harness.until_removed("reader")
    assert health["state"] == "FAILED"
    assert "no space left on device" in health["reason"]
    assert await harness.containers("reader") == []


async def test_an_unchanged_plugin_is_not_built_again(harness: Harness) -> None:
    """Changed code is, a changed limit is not."""
    harness.add("reader", image="base", files={"reader/plugin.py": b"x = 1"})
    client = await harness.open()
    await harness.settled("reader")
    built = len(harness.engine.image_store.builds)
    harness.write("reader", image="base", limits={"memory": "64MiB"})
    await client.post("/v1/plugins/reader/restart", params={"wait": 5})
    after_limit = len(harness.engine.image_store.builds)
    (harness.plugins / "reader" / "reader" / "plugin.py").write_bytes(b"x = 2")
    health = (await client.post("/v1/plugins/reader/restart", params={"wait": 5})).json()
    assert (after_limit, len(harness.engine.image_store.builds)) == (built, built + 1)
    assert (health["state"], health["limits"]["memory_bytes"]) == ("INITIALIZED", 64 << 20)
