"""What is written into the file of modules can be imported from it, by the code that the executable runs."""

import json
import marshal
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from build import image, tables
from build.tables import Tables

START = Path(image.__file__).parents[1] / "spec" / "start.py"
MODULES = {
    "plain": (image.MODULE, "VALUE = 1"),
    "pack": (image.PACKAGE, "from pack import inner"),
    "pack.inner": (image.MODULE, "VALUE = 2"),
    "space": (image.NAMESPACE, ""),
    "space.leaf": (image.MODULE, "VALUE = 3"),
    "broken": (image.MODULE, "1 / 0"),
}


def code(name: str, source: str) -> bytes:
    return marshal.dumps(compile(source, f"{name}.py", "exec")) if source else b""


@cache
def standard_modules() -> dict[str, tuple[int, bytes]]:
    """Those with tables, and what they import."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = {}
    for top in ("re", "dataclasses", "collections", "keyword", "inspect", "enum", "typing"):
        for path in [*folder.glob(f"{top}.py"), *folder.glob(f"{top}/*.py")]:
            name = path.relative_to(folder).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
            kind = image.PACKAGE if path.name == "__init__.py" else image.MODULE
            found[name] = (kind, marshal.dumps(compile(path.read_bytes(), str(path), "exec", dont_inherit=True)))
    return found


def run(folder: Path, program: str, made: Tables | None = None, needed: frozenset[str] = frozenset()) -> Any:
    """What `program` assigns to `result`, run after start.py in an interpreter that has loaded nothing else."""
    modules = {name: (kind, code(name, source)) for name, (kind, source) in MODULES.items()}
    empty: Tables = {"re._compiler": {}, "dataclasses": {}, "collections": {}, "typing": {}}
    native = b"native libraries"
    everything = standard_modules() | modules
    content, rest = image.made(everything, {"away": ""}, empty | (made or {}), set(needed), rest_start=len(native))
    (folder / image.NAME).write_bytes(content)
    (folder / "executable").write_bytes(b"program" + native + rest)
    script = f"""
import sys
kept = sys.path[:]
sys._MEIPASS = {str(folder)!r}
sys._pyinstaller_pyz = {f"{folder}/executable?{len(b'program')}"!r}
exec(compile(open({str(START)!r}).read(), "start.py", "exec"))
assert sys.frozen and not sys.path
sys.path[:] = kept
{program}
import json
print(json.dumps(result))
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("needed", [frozenset(), frozenset(MODULES)], ids=["compressed", "plain"])
def test_modules_are_imported(tmp_path: Path, needed: frozenset[str]) -> None:
    program = """
import plain, pack, pack.inner, space.leaf
result = [plain.VALUE, pack.inner.VALUE, space.leaf.VALUE, plain.__file__, pack.__path__]
result.append(pack.__spec__.loader.get_code("plain").co_filename)
"""
    assert run(tmp_path, program, needed=needed) == [1, 2, 3, f"{tmp_path}/plain.py", [f"{tmp_path}/pack"], "plain.py"]


def test_what_fails_while_it_is_imported_is_not_there(tmp_path: Path) -> None:
    program = """
try:
    import broken
except ZeroDivisionError:
    result = "broken" in sys.modules
"""
    assert run(tmp_path, program) is False


def test_what_does_not_exist_is_not_found(tmp_path: Path) -> None:
    program = """
try:
    import nowhere
except ModuleNotFoundError as error:
    result = error.name
"""
    assert run(tmp_path, program) == "nowhere"


@pytest.mark.parametrize("needed", [frozenset(), frozenset(MODULES)], ids=["compressed", "plain"])
def test_the_files_can_be_deleted_while_they_are_in_use(tmp_path: Path, needed: frozenset[str]) -> None:
    program = """
import os
os.remove(sys._MEIPASS + "/modules.bin")
os.remove(sys._MEIPASS + "/executable")
import plain
result = plain.VALUE
"""
    assert run(tmp_path, program, needed=needed) == 1


def test_an_extension_module_may_be_among_the_native_libraries(tmp_path: Path) -> None:
    """Here with another one under its name; the program is the checkout's."""
    import _json

    program = f"""
sys.path.insert(0, {str(START.parents[1])!r})
from shimmy.worker.llama import payload
class Carried:
    def find(self, file):
        assert file == "away.so"
        return {_json.__file__!r}
payload.carried = Carried
payload.extensions = lambda: {{"away": "away.so"}}
payload.needed = lambda name: []
import importlib.util
spec = importlib.util.find_spec("away")
result = [spec.origin, type(spec.loader).__name__]
"""
    assert run(tmp_path, program) == [_json.__file__, "ExtensionFileLoader"]


def test_an_expression_comes_from_the_table(tmp_path: Path) -> None:
    """The table is made to lie, to be seen at work; what is not in it is compiled."""
    import re._compiler  # type: ignore[import-not-found]
    import re._parser  # type: ignore[import-not-found]

    parsed = re._parser.parse("b+", 0)
    words = [int(word) for word in re._compiler._code(parsed, 0)]
    lie: tuple[Any, ...] = (int(parsed.state.flags), words, 0, {}, (None,))
    program = """
import re
result = [bool(re.fullmatch("a+", "bb")), bool(re.fullmatch("a+", "aa")), bool(re.fullmatch("c+", "cc"))]
result += [bool(re.fullmatch("a+", "AA", re.I)), bool(re.fullmatch(b"a+", b"aa"))]
"""
    result = run(tmp_path, program, {"re._compiler": {("a+", 0): lie}})
    assert result == [True, False, True, True, True]


def test_generated_code_comes_from_the_table(tmp_path: Path) -> None:
    made = tables_of_a_dataclass()
    program = """
import dataclasses, collections
ran = []
import marshal
load = marshal.loads
marshal.loads = lambda blob: (ran.append(1), load(blob))[1]

@dataclasses.dataclass
class Point:
    x: int
    y: int = 2

Pair = collections.namedtuple("Pair", "left right")
marshal.loads = load
result = [Point(1).y, Point(1) == Point(1, 2), Pair(1, 2).right, len(ran)]
"""
    result = run(tmp_path, program, made)
    assert result[:3] == [2, True, 2]
    assert result[3] == len(made["dataclasses"]) + len(made["collections"]) > 2


def test_a_type_that_is_named_comes_from_the_table(tmp_path: Path) -> None:
    """The table is made to lie, to be seen at work; what is not in it is compiled."""
    made = {"typing": {"Named": marshal.dumps(compile("int", "<string>", "eval"))}}
    program = """
import typing
def function(one: "Named", other: "typing.List[str]"): ...
result = [str(kind) for kind in typing.get_type_hints(function).values()]
"""
    assert run(tmp_path, program, made) == ["<class 'int'>", "typing.List[str]"]


def tables_of_a_dataclass() -> Tables:
    """As build/record.py makes them, of a class like the one above."""
    script = """
import marshal, sys
from build.record import Recorder
recorder = Recorder()
import dataclasses, collections

@dataclasses.dataclass
class Point:
    x: int
    y: int = 2

collections.namedtuple("Pair", "left right")
sys.stdout.buffer.write(marshal.dumps(recorder.tables))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=START.parents[1], capture_output=True, check=True)
    made: Tables = marshal.loads(done.stdout)
    return made


@pytest.mark.model
def test_the_same_tables_are_made_twice() -> None:
    """`model`, because the native library has to be there."""
    assert image.dumped(tables.tables()) == image.dumped(tables.tables())


def test_an_image_is_read_as_it_was_written(tmp_path: Path) -> None:
    modules = {
        "a": (image.MODULE, b"code of a"),
        "b": (image.PACKAGE, b""),
        "c": (image.NAMESPACE, b""),
        "d": (image.MODULE, b"code of d"),
    }
    content, rest = image.made(modules, {"e": "lib/e.so"}, {"a": {1: 2}}, {"a"}, rest_start=4)
    read = image.Image(content, b"1234" + rest)
    assert read.names == {"a", "b", "c", "d", "e"}
    assert [read.code(name) for name in "abcde"] == [b"code of a", b"", b"", b"code of d", b""]
    assert [read.is_rest(name) for name in "abcde"] == [False, False, False, True, False]
    assert (read.size("a"), read.size("d"), read.size("e")) == (9, len(rest), 0)
