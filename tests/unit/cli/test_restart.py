"""`orchestrator restart` where it is refused: what to do next fits what is broken."""

from __future__ import annotations

import pytest

ADVICE = {
    "BUILD_FAILED": "orchestrator logs echo --build",
    "MANIFEST_INVALID": "orchestrator audit",
    "MODEL_MISSING": "orchestrator models list",
    "MODEL_CORRUPT": "orchestrator models list",
    "SECRET_MISSING": "orchestrator doctor",
    "IMAGE_MISSING": "orchestrator doctor",
    "ENGINE_UNREACHABLE": "orchestrator doctor",
    "GPU_NOT_FOUND": "orchestrator gpus",
    "STOPPED": "orchestrator start echo",
    "INIT_ERROR": "orchestrator health echo",
}


@pytest.mark.parametrize(("code", "advice"), ADVICE.items())
def test_the_advice_fits_the_cause(api, code, advice):
    refusal = {"ok": False, "error": "what is broken", "error_type": "RestartRefused", "reason_code": code}
    api.says("/v1/plugins/echo/restart", refusal, status=409)
    api.says("/v1/plugins/echo/health", api.plugin(state="RUNNING", reason_code=None))
    result = api.call("restart", "echo", columns=200)
    assert result.exit_code == 1
    assert "what runs goes on" in result.stderr and "what is broken" in result.stderr
    assert f"`{advice}`" in result.stderr
    assert sum(f"`{other}`" in result.stderr for other in set(ADVICE.values())) == 1


@pytest.mark.parametrize(
    ("command", "sentence", "hint"),
    [
        (("scale", "new", "2"), "No plugin named 'new'. GET /v1/plugins lists all plugins.", True),
        (("start", "new"), "No plugin named 'new', and no folder of that name among the plugins' folders.", False),
    ],
)
def test_a_plugin_whose_folder_is_new_is_registered_by_a_start(api, command, sentence, hint):
    body = {"ok": False, "error": sentence, "error_type": "UnknownPlugin", "plugin": "new"}
    api.says(f"/v1/plugins/new/{command[0]}", body, 404)
    result = api.call(*command)
    assert result.exit_code == 1
    assert ("If its folder is new, `orchestrator start new` registers it." in result.stderr) == hint
