import subprocess
import sys
from pathlib import Path

import pytest

from shimmy.pool import command
from shimmy.pool.command import worker_argv, worker_environment

ROOT = Path(__file__).parents[2]


def test_the_worker_is_the_same_program(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_argv() == [sys.executable, "-m", "shimmy", "_worker"]
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert worker_argv() == [sys.executable, "_worker"]


def test_no_secret_reaches_the_worker() -> None:
    secrets = {
        "OPENAI_API_KEY": "k",
        "HF_TOKEN": "t",
        "HTTPS_PROXY": "p",
        "SHIMMY_API_KEY": "s",
        "LD_PRELOAD": "x.so",
        "PYTHONSTARTUP": "x.py",
        "GGML_BACKEND_PATH": "x.so",
    }
    passed = {
        "PATH": "/bin",
        "LANG": "C",
        "LC_ALL": "C",
        "LD_LIBRARY_PATH": "/lib",
        "XDG_DATA_HOME": "/data",
        "CUDA_VISIBLE_DEVICES": "1",
        "_PYI_ARCHIVE_FILE": "a",
        "_MEI2": "b",
    }
    environment = worker_environment(secrets | passed)
    assert not secrets.keys() & environment.keys()
    assert passed.items() <= environment.items()
    assert environment["GGML_NO_BACKTRACE"] == "1"


@pytest.mark.parametrize(("system", "passed"), [("linux", set()), ("win32", {"SYSTEMROOT", "LOCALAPPDATA"})])
def test_what_windows_cannot_do_without(system: str, passed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    given = {"SYSTEMROOT": "C:\\Windows", "LOCALAPPDATA": "C:\\Users\\me\\AppData\\Local", "SECRET": "s"}
    assert given.keys() & worker_environment(given).keys() == passed


@pytest.mark.parametrize(
    ("given", "passed"),
    [("", ""), (".", ""), (":/lib", "/lib"), ("/lib:", "/lib"), ("/a b;lib;/c::/d", "/a b:/c:/d"), ("$ORIGIN/x", "")],
)
def test_libraries_are_never_searched_in_the_current_directory(given: str, passed: str) -> None:
    assert worker_environment({"LD_LIBRARY_PATH": given})["LD_LIBRARY_PATH"] == passed


def test_only_a_program_in_source_form_needs_to_be_told_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_environment({"PYTHONPATH": "/elsewhere"})["PYTHONPATH"] == str(ROOT)
    monkeypatch.setattr(command, "__file__", "/venv/lib/python3.11/site-packages/shimmy/pool/command.py")
    assert "PYTHONPATH" not in worker_environment({})
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert not any(name.startswith("PYTHON") for name in worker_environment({}))


def test_a_worker_can_be_spawned_before_anything_of_http_is_imported() -> None:
    code = (
        "import shimmy.server.inference, sys;"
        "print([name for name in ('starlette', 'hypercorn', 'shimmy.models.catalog') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout == "[]\n"
