"""The stand-ins: they become what they stand for, and what they are given agrees with it. The second half fails when a
library has changed."""

import asyncio
import email.utils
import functools
import importlib
import subprocess
import sys
import threading
import time
import typing
import wsgiref.handlers
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shimmy import lean

# The pause is for threads to meet a module that is half imported.
SOURCE = """
import time
time.sleep(0.03)
LIMIT = 7
class OwnError(Exception): pass
class Box:
    size = 3
    def __init__(self, content): self.content = content
def double(number): return 2 * number
"""


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A stand-in for a module that is not loaded."""
    (tmp_path / "far_away.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lean, "STAND_INS", {"far_away": {"given": 1}})
    monkeypatch.setattr(lean, "_wanted", set())
    monkeypatch.setattr(sys, "meta_path", sys.meta_path.copy())
    lean.install()
    yield importlib.import_module("far_away")
    del sys.modules["far_away"]


def test_naming_loads_nothing(later: Any) -> None:
    from far_away import Box, double  # type: ignore[import-not-found]

    assert later.given == 1
    assert not isinstance(3, Box)
    assert not lean.is_loaded("far_away")
    assert double is not None


def test_a_call_loads(later: Any) -> None:
    from far_away import double

    assert double(4) == 8
    assert lean.is_loaded("far_away") and sys.modules["far_away"] is not later
    assert double(5) == 10 and later.double(6) == 12


def test_a_class_is_a_class(later: Any) -> None:
    from far_away import Box

    assert Box.size == 3
    box = Box("x")
    assert box.content == "x" and isinstance(box, Box) and not isinstance(3, Box)

    class Crate(Box):  # type: ignore[misc]
        pass

    assert isinstance(Crate("y"), Box)


def test_constants_and_exceptions_are_real(later: Any) -> None:
    assert later.LIMIT == 7
    try:
        raise sys.modules["far_away"].OwnError
    except later.OwnError:
        pass


def test_what_is_missing_is_missing(later: Any) -> None:
    with pytest.raises(AttributeError):
        later.nothing_of_this_name()
    with pytest.raises(ImportError):
        from far_away import NOT_THERE  # noqa: F401


def test_many_threads_load_one_module(later: Any) -> None:
    start = threading.Barrier(8)
    found: list[Any] = []

    def call() -> None:
        start.wait()
        found.append((later.double(1), sys.modules["far_away"]))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(2, sys.modules["far_away"])] * 8


def test_a_module_that_another_thread_is_importing_is_waited_for(later: Any) -> None:
    thread = threading.Thread(target=lambda: later.double(1))
    thread.start()
    while isinstance(sys.modules.get("far_away", later), lean.Later):
        time.sleep(0.001)
    assert later.double(2) == 4
    thread.join()


def test_what_is_loaded_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "STAND_INS", {"asyncio": {}})
    monkeypatch.setattr(sys, "meta_path", sys.meta_path.copy())
    lean.install()
    importlib.import_module("asyncio")
    assert sys.modules["asyncio"] is asyncio


@pytest.mark.parametrize(
    "code",
    [
        "import anyio.lowlevel; assert anyio.run(anyio.lowlevel.checkpoint) is None",
        "from anyio import to_thread; import anyio; assert anyio.run(to_thread.run_sync, int) == 0",
        "import json.tool, json; assert json.loads('[1]') == [1]",
        "import json\ntry: json.loads('[')\nexcept json.JSONDecodeError: pass",
        "import asyncio, ssl; assert isinstance(ssl.create_default_context(), ssl.SSLContext)",
        "import email.parser; from email.utils import parseaddr; assert parseaddr('a@b')[1] == 'a@b'",
        "from pathlib import Path; assert str(Path('a') / 'b') == 'a/b'",
        "import inspect; assert str(inspect.signature(lambda a: a)) == '(a)'",
        "import inspect; assert inspect.cleandoc('a\\n  b') == 'a\\nb'",
        "import tempfile, hashlib; assert hashlib.sha256(tempfile.gettempdir().encode()).hexdigest()",
        "import dataclasses\n@dataclasses.dataclass\nclass A: b: int\nassert A(1) == A(1)",
        "import msgspec.inspect; assert msgspec.inspect.type_info(int) == msgspec.inspect.IntType()",
        "import traceback, typing_extensions, uuid, multiprocessing.synchronize, hypercorn.typing",
    ],
)
def test_libraries_work_behind_stand_ins(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"from shimmy import lean; lean.install()\n{code}"])
    assert done.returncode == 0


def test_an_exception_shows_its_source() -> None:
    code = "import logging\ntry: 1 / 0\nexcept ArithmeticError: logging.exception('x')"
    command = [sys.executable, "-c", f"from shimmy import lean; lean.install()\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "ZeroDivisionError: division by zero" in done.stderr


# ---- what they are given


@pytest.mark.parametrize("name", lean.STAND_INS)
def test_the_real_one_has_what_the_stand_in_is_given(name: str) -> None:
    real = importlib.import_module(name)
    assert [given for given in lean.STAND_INS[name] if not hasattr(real, given)] == []


def test_values() -> None:
    import ipaddress
    import ssl

    import hypercorn.typing

    assert lean.STAND_INS["ssl"]["OP_NO_COMPRESSION"] == ssl.OP_NO_COMPRESSION
    # Whoever catches the one catches the other.
    assert issubclass(ssl.SSLError, lean.STAND_INS["ssl"]["SSLError"])
    assert issubclass(ipaddress.AddressValueError, lean.STAND_INS["ipaddress"]["AddressValueError"])
    state: Any = {}
    assert hypercorn.typing.ConnectionState(state) is lean.STAND_INS["hypercorn.typing"]["ConnectionState"](state)


@pytest.mark.parametrize("timestamp", [0, 1.5, 951782400, 1732188000.9, 4102444799])
def test_dates(timestamp: float) -> None:
    ours = lean.STAND_INS["wsgiref.handlers"]["format_date_time"](timestamp)
    assert ours == wsgiref.handlers.format_date_time(timestamp) == email.utils.formatdate(timestamp, usegmt=True)


class Thing:
    async def wait(self) -> None: ...

    def work(self) -> None: ...

    async def __call__(self) -> None: ...


async def coroutine() -> None: ...


async def generator() -> Any:
    yield 1


@functools.wraps(coroutine)
def wrapper() -> None: ...


VALUES = [coroutine, generator, wrapper, Thing, Thing(), Thing().wait, Thing().work, Thing.wait, print, 3, lambda: 0]
VALUES += [functools.partial(value) for value in (coroutine, Thing().wait, print, functools.partial(coroutine))]


@pytest.mark.parametrize("name", ["iscoroutinefunction", "isfunction", "ismethod", "unwrap"])
@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_inspect_agrees(name: str, value: Any) -> None:
    import inspect

    if name == "unwrap" and not callable(value):
        return
    assert lean.STAND_INS["inspect"][name](value) == getattr(inspect, name)(value)


@pytest.mark.parametrize("text", ["", "  ", "One line.", "  One line. ", "a\n  b\n", "\ta\tb"])
def test_clean_doc_agrees(text: str) -> None:
    import inspect

    assert lean.STAND_INS["inspect"]["cleandoc"](text) == inspect.cleandoc(text)


def test_type_variables_agree() -> None:
    given = lean.STAND_INS["typing_extensions"]
    variable = given["TypeVar"]("T", bound=int, default=bool)
    assert isinstance(variable, typing.TypeVar) and variable.__bound__ is int
    assert given["deprecated"]("because")(test_type_variables_agree) is test_type_variables_agree


@pytest.mark.parametrize(("count", "word"), [(0, "files"), (1, "file"), (2, "files")])
def test_plurals_agree(count: int, word: str) -> None:
    import gettext

    assert lean.STAND_INS["gettext"]["ngettext"]("file", "files", count) == word
    assert gettext.NullTranslations().ngettext("file", "files", count) == word
