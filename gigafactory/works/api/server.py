"""One server, on the loopback: the gateway under `/v1/`, everything else behind the guard.

`$GIGAFACTORY_HOST` is another address to listen on, `0.0.0.0` for all. We speak plain HTTP: what
leaves the machine belongs behind a proxy with TLS (docs/safety.md).
"""

import asyncio
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from gigafactory.faults import Fault, Refused

HOST = "127.0.0.1"
END_S_MAX = 15  # for answers under way; the gateway lets its own end before


def bind(port: int) -> socket.socket:
    """A listening socket, before anything else is begun."""
    host = _host()
    family = socket.AF_INET if host.version == 4 else socket.AF_INET6
    # Named TCP, or asyncio leaves Nagle's algorithm on, and each answer waits 40 ms for an ACK.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((str(host), port))
    except OSError as error:
        listening.close()
        raise Refused(
            Fault(
                f"port {port} cannot be used",
                f"{host}:{port}",
                error.strerror or str(error),
                "choose another with --port, or 0 for any that is free",
            )
        ) from None
    return listening


def url_of(listening: socket.socket) -> str:
    """How this machine reaches the socket; one that listens everywhere, by the loopback."""
    name, port = listening.getsockname()[:2]
    host = ipaddress.ip_address(name)
    if host.is_unspecified:
        host = ipaddress.ip_address(HOST if host.version == 4 else "::1")
    return f"http://{host}:{port}" if host.version == 4 else f"http://[{host}]:{port}"


def _host() -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    said = os.environ.get("GIGAFACTORY_HOST") or HOST
    try:
        return ipaddress.ip_address(said)
    except ValueError:
        raise Refused(
            Fault(
                f"{said!r} is no address to listen on",
                "GIGAFACTORY_HOST",
                "a name may stand for several addresses, and tomorrow for others",
                "write an address, 0.0.0.0 for all, or leave it out for this machine alone",
            )
        ) from None


def split(api: ASGIApp, gateway: Callable[..., Awaitable[None]]) -> ASGIApp:
    """`/v1/*` to the gateway, which guards itself and has no time to lose; the rest to the API."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        to = gateway if scope["type"] == "http" and scope["path"].startswith("/v1/") else api
        await to(scope, receive, send)

    return app


class Server(uvicorn.Server):
    """Uvicorn, with signals left to the works."""

    def capture_signals(self) -> Any:
        """Catch none."""
        return nullcontext()


def serve(app: ASGIApp, listening: socket.socket) -> tuple[Server, asyncio.Task]:
    """Start answering on the socket; the task ends when `server.should_exit` is set."""
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        proxy_headers=False,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=END_S_MAX,
    )
    server = Server(config)
    return server, asyncio.create_task(server.serve(sockets=[listening]))
