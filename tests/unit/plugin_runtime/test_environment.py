"""What the container is given is read once, and what is wrong in it is said in one sentence."""

import pytest
from plugin_runtime import model_path, models
from plugin_runtime.shared.environment import EnvironmentProblem, read_environment

ENTRY = {"PLUGIN_ENTRYPOINT": "a.b:C"}


def test_everything_but_the_entrypoint_has_a_default():
    environment = read_environment(ENTRY)
    assert environment.control_socket == "/run/plugin/control.sock"
    assert environment.tools_socket == "/run/plugin/tools.sock"
    assert environment.packages == ()
    assert environment.models == {}
    assert environment.max_result > 0
    assert environment.concurrency == 1


def test_every_variable_is_read():
    environment = read_environment(
        ENTRY
        | {
            "PLUGIN_NAME": "reader",
            "PLUGIN_PACKAGES": '["cv2"]',
            "PLUGIN_MODELS": '{"m": "/models/m.pt"}',
            "PLUGIN_REQUIRES_GPU": "1",
            "PLUGIN_CODE_DIR": "/plugin",
            "PLUGIN_RUN_DIR": "/r",
            "PLUGIN_SCRATCH_DIR": "/s",
            "PLUGIN_MAX_RESULT": "10",
            "PLUGIN_MAX_SCRATCH": "20",
            "PLUGIN_MAX_OUTPUT": "30",
            "PLUGIN_CACHE_DIR": "/cache",
            "PLUGIN_MAX_CACHE": "40",
            "NOTIFY_SOCKET": "/n",
            "PLUGIN_HEALTH_FILE": "/h",
            "PLUGIN_CONCURRENCY": "3",
            "PLUGIN_LIMITS": '{"memory_bytes": 5, "cpus": 0.5}',
        }
    )
    limits = {"memory_bytes": 5, "cpus": 0.5}
    models = {"m": "/models/m.pt"}
    folders = ("/plugin", "/r", "/s")
    sizes = (10, 20, 30, "/cache", 40)
    assert environment == ("reader", "a.b:C", ("cv2",), models, True, *folders, *sizes, "/n", "/h", 3, limits)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"PLUGIN_ENTRYPOINT": ""}, "package.module:Class"),
        ({"PLUGIN_ENTRYPOINT": "module"}, "package.module:Class"),
        ({"PLUGIN_PACKAGES": "[1]"}, "PLUGIN_PACKAGES"),
        ({"PLUGIN_PACKAGES": "{"}, "no JSON"),
        ({"PLUGIN_MODELS": "[]"}, "PLUGIN_MODELS"),
        ({"PLUGIN_LIMITS": '{"pids": "many"}'}, "PLUGIN_LIMITS"),
        ({"PLUGIN_MAX_RESULT": "1k"}, "number of bytes"),
        ({"PLUGIN_MAX_RESULT": "-1"}, "number of bytes"),
        ({"PLUGIN_CONCURRENCY": "many"}, "number of runs"),
        ({"PLUGIN_RUN_DIR": "/" + "x" * 100}, "Unix sockets allow 107"),
    ],
)
def test_what_is_wrong_is_named(variables, says):
    with pytest.raises(EnvironmentProblem) as problem:
        read_environment(ENTRY | variables)
    assert says in str(problem.value)


def test_a_plugin_finds_its_mounted_models(monkeypatch):
    monkeypatch.setenv("PLUGIN_MODELS", '{"m": "/models/m.pt"}')
    assert str(models()["m"]) == "/models/m.pt"
    assert str(model_path("m")) == "/models/m.pt"


def test_a_model_that_the_manifest_does_not_have_is_named_with_those_that_it_has(monkeypatch):
    monkeypatch.setenv("PLUGIN_MODELS", '{"m": "/models/m.pt"}')
    with pytest.raises(LookupError) as error:
        model_path("other")
    assert "'other'" in str(error.value)
    assert "declared: m" in str(error.value)
