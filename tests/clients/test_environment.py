"""What is said where a client's packages cannot be had."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.clients.environment import Unreachable, modules_of, python_of

pytestmark = pytest.mark.slow

WHEEL = "pip-1.0-py3-none-any.whl"


class Registry(BaseHTTPRequestHandler):
    """An index that has pip, and nothing else."""

    def do_GET(self) -> None:
        found = self.path == "/simple/pip/"
        self.send_response(200 if found else 404)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(f'<a href="/{WHEEL}">{WHEEL}</a>'.encode() if found else b"")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a client that wants a package that nobody has."""
    monkeypatch.setenv("SHIMMY_BUILD_CACHE", str(tmp_path / "cache"))
    for name, value in {"RETRIES": "0", "INDEX_URL": "http://127.0.0.1:9/simple", "FIND_LINKS": ""}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    folder = tmp_path / "client"
    folder.mkdir()
    (folder / "requirements.txt").write_text(f"no-such-package==1.0 --hash=sha256:{'0' * 64}\n")
    return folder


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with HTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        yield
        server.shutdown()
        thread.join()


def test_a_registry_that_does_not_answer_is_no_fault_of_the_client(folder: Path) -> None:
    with pytest.raises(Unreachable, match="PyPI is unreachable"):
        python_of(folder)


def test_a_lock_file_that_names_what_is_not_there_is_one(folder: Path, registry: None) -> None:
    with pytest.raises(RuntimeError, match="no-such-package"):
        python_of(folder)


def test_without_npm_nothing_can_be_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("package.json", "package-lock.json"):
        (folder / name).write_text("{}")
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(Unreachable, match="no npm"):
        modules_of(folder)
