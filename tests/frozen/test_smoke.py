"""The executable alone with a model: nothing else of this machine is offered to it, not even a PATH."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shimmy.hardware.libraries import is_library, linked_file
from tests.program import DEMO, DEMO_ID

pytestmark = [pytest.mark.frozen, pytest.mark.model]
LIMIT_SECONDS = 90
NOBODY = 65534
MESSAGES = [{"role": "user", "content": "Say hello."}]
QUESTION = {"model": DEMO_ID, "messages": MESSAGES, "max_tokens": 8, "temperature": 0, "stream": True}
WINDOWS = sys.platform == "win32"
ROOT = not WINDOWS and os.geteuid() == 0
# Where a user's cache is, from the home.
CACHE = {"darwin": "Library/Caches/shimmy", "win32": "AppData/Local/shimmy"}.get(sys.platform, ".cache/shimmy")


@pytest.fixture
def place(exe: Path) -> Iterator[Path]:
    """A folder that an unprivileged user can use, with the executable, the model and a home; nobody's where we may."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for inner in ("models", "home", "work", "tmp"):
            (folder / inner).mkdir()
        shutil.copy(exe, folder / exe.name)
        shutil.copy(DEMO, folder / "models")
        if ROOT:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
        yield folder


def command(place: Path, *arguments: str) -> list[str]:
    """By root as nobody, and in any case without an environment; Windows has no `env`, see `apart`."""
    program = [str(next(place.glob("shimmy*"))), *arguments]
    if WINDOWS:
        return program
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if ROOT else []
    environment = [f"HOME={place / 'home'}", f"TMPDIR={place / 'tmp'}", "PATH="]
    return [*drop, "/usr/bin/env", "-i", *environment, *program]


def apart(place: Path) -> dict[str, Any]:
    """Options for `Popen`: on Windows what `env` does, with the one variable that nothing there works without, and a
    process group of its own, for the signal."""
    if sys.platform != "win32":
        return {}
    folders = {"USERPROFILE": "home", "LOCALAPPDATA": "home/AppData/Local", "TEMP": "tmp", "TMP": "tmp"}
    environment = {name: str(place / folder) for name, folder in folders.items()}
    environment |= {"SYSTEMROOT": os.environ["SYSTEMROOT"], "PATH": ""}
    return {"env": environment, "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}


def ask_to_leave(process: "subprocess.Popen[bytes]") -> None:
    """On Windows with Ctrl-Break, the only signal that can be sent there and handled."""
    if sys.platform == "win32":
        process.send_signal(signal.CTRL_BREAK_EVENT)
    else:
        process.send_signal(signal.SIGTERM)


@contextmanager
def server(place: Path, *arguments: str) -> Iterator[str]:
    """Its URL. It must end cleanly when it is asked to."""
    ready = place / "work" / "ready.json"
    line = command(place, "serve", "--bind", "127.0.0.1:0", "--ready-file", str(ready), *arguments)
    settings = apart(place)
    with (
        open(place / "log", "w+") as log,
        subprocess.Popen(line, cwd=place / "work", stderr=log, **settings) as process,
    ):
        try:
            deadline = time.monotonic() + LIMIT_SECONDS
            while not ready.exists():
                assert process.poll() is None and time.monotonic() < deadline, (place / "log").read_text()
                time.sleep(0.01)
            yield json.loads(ready.read_text())["url"]
            ask_to_leave(process)
            assert process.wait(LIMIT_SECONDS) == 0
        finally:
            process.kill()


def ask(url: str) -> str:
    """The streamed answer to a question, put together."""
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(QUESTION).encode())
    request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as answer:
        lines = [line.removeprefix(b"data: ").strip() for line in answer if line.startswith(b"data: ")]
    assert lines[-1] == b"[DONE]"
    deltas = [choice["delta"] for line in lines[:-1] for choice in json.loads(line)["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def test_a_streamed_answer_in_an_empty_environment(place: Path) -> None:
    with server(place, "--model-dirs", str(place / "models")) as url:
        assert ask(url).strip()
    assert "Traceback" not in (place / "log").read_text()
    (unpacked,) = (place / "home" / CACHE).glob("native-*")
    assert (unpacked / linked_file("llama")).exists()
    assert [*(place / "work").iterdir(), *(place / "tmp").iterdir()] == []


def test_damage_to_the_unpacked_libraries_heals(place: Path) -> None:
    with server(place, "--model-dirs", str(place / "models")) as url:
        assert ask(url)
    (unpacked,) = (place / "home" / CACHE).glob("native-*")
    libraries = [path for path in unpacked.iterdir() if is_library(path.name)]
    whole = {path: path.read_bytes() for path in libraries}
    assert whole
    for index, path in enumerate(libraries):
        path.chmod(0o700)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content if index % 2 else content[:1000])
    with server(place, "--model-dirs", str(place / "models")) as url:
        assert ask(url)
    assert {path: path.read_bytes() for path in libraries} == whole


def test_without_a_writable_home(place: Path) -> None:
    (place / "home").rmdir()
    (place / "home").write_text("not a folder")
    with server(place, "--model-dirs", str(place / "models")) as url:
        assert ask(url).strip()


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="only Linux has prlimit, which makes a disk look full")
def test_no_room_for_the_libraries(place: Path) -> None:
    """A limit on the size of files stands for the full disk, because it needs no mount."""
    arguments = ["generate", DEMO_ID, "--prompt", "Hi.", "--max-tokens", "2", "--model-dirs", str(place / "models")]
    roomy = command(place, *arguments)
    subprocess.run(command(place, "--version"), check=True, stdout=subprocess.DEVNULL)
    if not (place / "home" / CACHE / "start").exists():
        pytest.skip("PyInstaller's own bootloader unpacks at every start, and dies of the limit")
    tight = ["prlimit", "--fsize=1000000", *roomy]
    done = subprocess.run(tight, capture_output=True, text=True)
    assert done.returncode != 0 and done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr.splitlines()[-1]
    assert subprocess.run(roomy, capture_output=True).returncode == 0


def test_gpu_info_lists_the_cpu(place: Path) -> None:
    line = command(place, "gpu-info", "--json")
    printed = subprocess.run(line, capture_output=True, text=True, check=True, **apart(place)).stdout
    assert json.loads(printed)["devices"][0]["kind"] == "cpu"


def test_a_name_is_resolved(place: Path) -> None:
    """Python encodes every host name with a codec that is imported by its name."""
    with server(place, "--bind", "localhost:0") as url:
        with urllib.request.urlopen(f"{url}/health", timeout=LIMIT_SECONDS) as answer:
            assert answer.status == 200
