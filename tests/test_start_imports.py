"""What `serve` has loaded when it answers, and that all it has not loaded works when it is needed: this is the whole
program, the executable too (SHIMMY_EXE)."""

import base64
import json
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest

from shimmy import lean
from tests.program import DEMO, DEMO_ID, LIMIT_SECONDS, Program, inside, program, unfrozen

pytestmark = pytest.mark.program

# Whole packages, and modules. What is new here costs every start: can it be imported where it is used?
STANDARD = """
    __future__ array asyncio atexit collections concurrent contextvars copy copyreg dataclasses datetime enum errno
    fcntl gc heapq http logging math msvcrt org queue re resource select selectors signal socket string struct
    subprocess threading traceback typing urllib weakref zlib
    _ast _asyncio _contextvars _datetime _heapq _opcode _posixsubprocess _queue _socket _sre _string _struct _typing
    _weakrefset
"""
LIBRARIES = """
    click h11 msgspec hypercorn hypercorn.app_wrappers hypercorn.asyncio hypercorn.config hypercorn.events
    hypercorn.logging hypercorn.utils hypercorn.protocol hypercorn.protocol.events hypercorn.protocol.h11
    hypercorn.protocol.http_stream starlette starlette._exception_handler starlette._utils starlette.background
    starlette.concurrency starlette.convertors starlette.datastructures starlette.exceptions starlette.formparsers
    starlette.middleware starlette.middleware.body_limit starlette.requests starlette.responses starlette.routing
    starlette.types starlette.websockets
    python_multipart multipart platformdirs
"""
OURS = """
    shimmy shimmy.__main__ shimmy.lean shimmy.cli shimmy.cli.options shimmy.cli.program
    shimmy.cli.progress shimmy.cli.serve shimmy.core shimmy.models shimmy.pool shimmy.protocols
    shimmy.protocols.anthropic shimmy.protocols.native shimmy.protocols.ollama shimmy.protocols.openai shimmy.server
    shimmy.store shimmy.store.place
"""
# Those of whose packages only some modules may be loaded are named module by module.
PICKED = ("hypercorn", "starlette", "shimmy", "shimmy.cli", "shimmy.protocols", "shimmy.store")
# Extension modules and libraries that cost much: OpenSSL, decimal numbers, compression, ctypes.
HEAVY = re.compile(r"/(?:libssl|libcrypto|_ssl|_hashlib|_decimal|_lzma|_bz2|liblzma|unicodedata|_uuid)\b[^/]*$", re.M)


def imported(log: str) -> set[str]:
    """The modules that were loaded. Those with a stand-in are seen twice then."""
    names = Counter(re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", log, re.M))
    return {name for name, seen in names.items() if seen > (name in lean.STAND_INS)}


def is_allowed(module: str) -> bool:
    for name in (STANDARD + LIBRARIES + OURS).split():
        if module == name or (module.startswith(f"{name}.") and name not in PICKED):
            return True
    return False


@contextmanager
def served(folder: Path, *arguments: str, **environment: str) -> Iterator[Program]:
    """Fails if anything was said that sounds like a fault."""
    with program(folder, *arguments, environment=environment) as running:
        yield running
    assert "Traceback" not in (folder / "stderr.txt").read_text()


def wait_until_still(log: Path) -> None:
    """Some of what answering needs is loaded when the first request could have come already."""
    size = -1
    while size != (size := log.stat().st_size):
        time.sleep(0.5)


@unfrozen("it does not say what it imports")
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the list is that of the executable's Python")
def test_serve_loads_only_what_answering_needs(tmp_path: Path) -> None:
    bare = subprocess.run([sys.executable, "-X", "importtime", "-m", "runpy"], capture_output=True, text=True)
    with served(tmp_path, PYTHONPROFILEIMPORTTIME="1") as running:
        running.get("/health")
        wait_until_still(tmp_path / "stderr.txt")
    new = imported((tmp_path / "stderr.txt").read_text()) - imported(bare.stderr)
    assert "starlette.routing" in new
    assert sorted(module for module in new if not is_allowed(module)) == []
    assert sorted(new & set(lean.STAND_INS)) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux shows what a process has mapped")
def test_serve_has_no_heavy_library_mapped(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        running.get("/health")
        mapped = Path(f"/proc/{running.process.pid}/maps").read_text()
    assert "msgspec/_core" in mapped
    assert HEAVY.findall(mapped) == []


@inside("what it would import without stand-ins")
def test_no_stand_in_is_useless() -> None:
    """Without them each of these modules is loaded at every start; a library that changed no longer needs its own."""
    # The executable does not carry markupsafe.
    code = """
import sys
sys.modules["markupsafe"] = None
import shimmy.cli.program, shimmy.cli.serve, shimmy.server.lifecycle, shimmy.server.app, hypercorn.asyncio, minijinja
"""
    naive = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
    assert naive.returncode == 0, naive.stderr
    assert [name for name in lean.STAND_INS if not re.search(rf"\| +{re.escape(name)}$", naive.stderr, re.M)] == []


def connect(running: Program) -> socket.socket:
    port = int(running.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=LIMIT_SECONDS)


def head(connection: socket.socket) -> bytes:
    """Up to the empty line, and no byte more."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, data
        data += byte
    return data


def http2_answer(connection: socket.socket, client: h2.connection.H2Connection, stream: int) -> bytes:
    """The body of the answer on a stream."""
    body = b""
    while True:
        connection.sendall(client.data_to_send())
        received = connection.recv(65536)
        assert received, "the server closed the connection"
        for event in client.receive_data(received):
            if isinstance(event, h2.events.DataReceived) and event.stream_id == stream:
                body += event.data
            elif isinstance(event, h2.events.StreamEnded) and event.stream_id == stream:
                return body


def test_http11(tmp_path: Path) -> None:
    with served(tmp_path) as running, connect(running) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        answer = head(connection)
        assert answer.startswith(b"HTTP/1.1 200")
        assert re.search(rb"\r\ndate: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n", answer)
        assert running.get("/no-such-path")["error"]["code"] == "not_found"
        assert running.get("/v1/chat/completions")["error"]["code"] == "method_not_allowed"
        assert running.get("/v1/models")["object"] == "list"


def test_http2_with_prior_knowledge(tmp_path: Path) -> None:
    with served(tmp_path) as running, connect(running) as connection:
        client = h2.connection.H2Connection()
        client.initiate_connection()
        pairs = [(":method", "GET"), (":path", "/health"), (":scheme", "http"), (":authority", "localhost")]
        client.send_headers(1, pairs, end_stream=True)
        assert json.loads(http2_answer(connection, client, 1))["status"] == "ok"


def test_http2_by_upgrade(tmp_path: Path) -> None:
    with served(tmp_path) as running, connect(running) as connection:
        client = h2.connection.H2Connection()
        settings = client.initiate_upgrade_connection()
        connection.sendall(
            b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
            b"http2-settings: " + (settings or b"") + b"\r\n\r\n"
        )
        assert head(connection).startswith(b"HTTP/1.1 101")
        assert json.loads(http2_answer(connection, client, 1))["status"] == "ok"


def test_websocket_is_refused(tmp_path: Path) -> None:
    with served(tmp_path) as running, connect(running) as connection:
        connection.sendall(
            b"GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: " + base64.b64encode(bytes(16)) + b"\r\n\r\n"
        )
        assert head(connection).startswith(b"HTTP/1.1 403")
        assert running.get("/health")["status"] == "ok"


@pytest.mark.model
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_model_answers(tmp_path: Path, stream: bool) -> None:
    body = {"model": DEMO_ID, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "stream": stream}
    content = json.dumps(body).encode()
    request = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    with served(tmp_path, "--model-path", str(DEMO)) as running, connect(running) as connection:
        connection.sendall(request.encode() + content)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert (b"data: [DONE]" if stream else b'"finish_reason"') in answer


def test_a_name_of_this_machine_is_resolved(tmp_path: Path) -> None:
    with served(tmp_path, "--bind", "localhost:0") as running:
        assert running.get("/health")["status"] == "ok"
