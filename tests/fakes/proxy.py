"""An HTTP proxy on this machine that opens tunnels, to this machine alone, and what such proxies say instead."""

import base64
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from socketserver import StreamRequestHandler, ThreadingTCPServer


@dataclass
class Proxy:
    """`asked` are the hosts that tunnels were wanted to. `answers` are sent instead of tunnels, in this order; `names`
    are hosts that only the proxy can find, each with a port of this machine."""

    port: int
    user: str | None = None
    asked: list[str] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://{f'{self.user}@' if self.user else ''}127.0.0.1:{self.port}"


class _Handler(StreamRequestHandler):
    proxy: Proxy

    def handle(self) -> None:
        method, target, _ = self.rfile.readline().decode().split()
        headers = dict(line.decode().strip().split(": ", 1) for line in iter(self.rfile.readline, b"\r\n"))
        assert method == "CONNECT" and headers["Host"] == target
        self.proxy.asked.append(target)
        if self.proxy.answers:
            self.wfile.write(self.proxy.answers.pop(0))
        elif self.proxy.user and headers.get("Proxy-Authorization") != f"Basic {encoded(self.proxy.user)}":
            self.wfile.write(b"HTTP/1.1 407 Who are you\r\nConnection: close\r\n\r\n<h1>Who are you?</h1>")
        else:
            host, _, port = target.rpartition(":")
            with socket.create_connection(("127.0.0.1", self.proxy.names.get(host, int(port)))) as other:
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n")
                with suppress(OSError):
                    carry(self.connection, other)


def carry(one: socket.socket, other: socket.socket) -> None:
    """Bytes in both directions, until one side ends."""
    while True:
        for ready in select.select([one, other], [], [], 30)[0] or [one]:
            piece = ready.recv(65536)
            if not piece:
                return
            (other if ready is one else one).sendall(piece)


def encoded(user: str) -> str:
    return base64.b64encode(user.encode()).decode()


class _Server(ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@contextmanager
def running_proxy(user: str | None = None) -> Iterator[Proxy]:
    """Until the block ends. `user` is USER:PASSWORD that it wants."""

    class Handler(_Handler):
        """With a proxy of its own."""

    with _Server(("127.0.0.1", 0), Handler) as server:
        proxy = Handler.proxy = Proxy(server.server_address[1], user)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()
