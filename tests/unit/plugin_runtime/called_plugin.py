"""A plugin whose tools take and give everything that a call can carry."""

SOURCE = """
    import asyncio, os, sys, threading, time
    from typing import Any
    from plugin_runtime import InvalidInput, tool

    class Plugin:
        def validate(self): pass

        @tool
        def add(self, a: int, b: int = 2) -> int:
            return a + b

        @tool
        def size(self, image: bytes, scale: float = 1.0) -> dict:
            return {"bytes": len(image), "scale": scale, "begin": list(image[:2])}

        @tool
        def two(self, left: bytes, right: bytes) -> list:
            return [left.decode(), right.decode()]

        @tool
        def say(self, text: str) -> str:
            print("printed:", text)
            return text

        @tool
        async def wait(self, seconds: float = 0.0) -> str:
            await asyncio.sleep(seconds)
            return threading.current_thread().name

        @tool
        async def async_raises(self, what: str) -> None:
            raise {"exit": SystemExit(3), "cancel": asyncio.CancelledError(), "value": ValueError("v")}[what]

        @tool
        def sleep(self, seconds: float) -> None:
            time.sleep(seconds)

        @tool
        def raises(self, what: str) -> None:
            errors = {"value": ValueError("bad value"), "exit": SystemExit(3), "interrupt": KeyboardInterrupt(),
                      "stop": StopIteration(), "memory": MemoryError(), "surrogate": ValueError("\\ud800"),
                      "exitcode": GeneratorExit()}
            raise errors[what]

        @tool
        def refuses(self) -> None:
            raise InvalidInput("no face in this picture")

        @tool
        def returns(self, what: str) -> Any:
            return {"nan": float("nan"), "object": object(), "big": "x" * 5000}[what]

        @tool
        def forks(self) -> int:
            pid = os.fork()
            if pid == 0:
                return -1
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        @tool
        def without(self) -> str:
            return "called"
"""
