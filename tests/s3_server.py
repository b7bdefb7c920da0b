"""A proxy to stand before a server that speaks S3: it counts requests, and it can be unreliable on purpose."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """What was asked: ``bytes`` came back in the body."""

    method: str
    path: str
    range: str | None
    bytes: int


class Proxy:
    """Forwards to a server. ``fault(n, method, path)`` says what happens to the n-th request.

    Nothing (``""``); an answer ``"503"``; half the body, then the end (``"cut"``); no answer at all (``"hang up"``).
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.requests: list[Request] = []
        self.faults = 0
        self.fault: Callable[[int, str, str], str] = lambda number, method, path: ""
        self._count, self._lock = 0, threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

            def answer(self) -> None:
                proxy._answer(self, upstream)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def process_request(self, request: Any, client_address: Any) -> None:
                proxy._connections.append(request)
                super().process_request(request, client_address)

            def handle_error(self, *_: Any) -> None:
                """Clients hang up; there is nobody to tell."""

        self._connections: list[socket.socket] = []
        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def _answer(self, handler: BaseHTTPRequestHandler, upstream: tuple[str, int]) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self._lock:
            self._count += 1
            fault = self.fault(self._count, handler.command, handler.path)
            self.faults += bool(fault)
        if fault == "hang up":
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "503":
            status, headers, data = 503, {}, b"<Error><Code>ServiceUnavailable</Code></Error>"
        else:
            connection = http.client.HTTPConnection(*upstream)
            connection.request(handler.command, handler.path, body, dict(handler.headers))
            response = connection.getresponse()
            status, headers, data = response.status, dict(response.headers), response.read()
            connection.close()
        request = Request(handler.command, handler.path, handler.headers.get("Range"), len(data))
        with self._lock:
            self.requests.append(request)
        handler.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                handler.send_header(name, value)
        length = headers.get("Content-Length", "0") if handler.command == "HEAD" else str(len(data))
        handler.send_header("Content-Length", length)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if fault == "cut":
            handler.wfile.write(data[: len(data) // 2])
            handler.close_connection = True
            return
        handler.wfile.write(data)

    def stop(self) -> None:
        """Refuse connections from now on, and end those that there are; a second time does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
