"""A caller learns of the kernel's out-of-memory kills with the answer that they may have spoilt."""

import json
import socket
import threading
from pathlib import Path

from plugin_runtime import Progress, tool
from plugin_runtime.shared.environment import read_environment
from plugin_runtime.shared.run_table import SharedRunTable
from plugin_runtime.tools.scratch import Scratch
from plugin_runtime.tools.toolset import collect_tools
from plugin_runtime.worker.process import KillCount
from plugin_runtime.worker.runs import RunTable
from plugin_runtime.worker.threads import ThreadPool
from plugin_runtime.worker.tool_service import ToolService


class Counter:
    """Stands for the kernel's counter."""

    def __init__(self, *values):
        self.values = list(values)

    def oom_kills(self):
        return self.values.pop(0)


def test_a_change_is_reported_once():
    reported = []
    kills = KillCount(Counter(None, 0, 1, 1, 3), on_change=lambda: reported.append(True))
    assert [kills.now() for _ in range(5)] == [0, 0, 1, 1, 3]
    assert len(reported) == 2


class Plugin:
    @tool
    def plain(self) -> int:
        return 1

    @tool
    def events(self) -> object:
        yield Progress(1)

    @tool
    def raises(self) -> None:
        raise ValueError


def call(name, kills):
    environment = read_environment({"PLUGIN_ENTRYPOINT": "a:B"})
    runs = RunTable(SharedRunTable())
    scratch = Scratch(Path(environment.scratch_dir), environment.max_scratch)
    service = ToolService(
        environment,
        collect_tools(Plugin()),
        runs,
        lambda: kills,
        scratch=scratch,
        advice=lambda _: "",
        gpu_loss=lambda _: None,
        threads=ThreadPool(1),
        batches={},
    )
    near, far = socket.socketpair()
    thread = threading.Thread(target=service.serve, args=(far,))
    thread.start()
    with near:
        near.sendall(f"POST /tools/{name} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: near.recv(65536), b""))
    thread.join()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode(), body


def test_answers_carry_the_kills_so_far():
    for name in ("plain", "raises", "no-such-tool"):
        assert "X-Oom-Kills: 2" in call(name, 2)[0]
        assert "X-Oom-Kills" not in call(name, 0)[0]


def test_the_end_of_a_stream_carries_the_kills_so_far():
    for kills, expected in ((2, 2), (0, None)):
        lines = [json.loads(line) for line in call("events", kills)[1].split(b"\r\n") if line.startswith(b"{")]
        assert lines[-1].get("oom_kills") == expected
