"""Runs first in the executable, in the place of PyInstaller's bootstrap: imports come from a file of modules.

PyInstaller's own importer opens the executable, seeks and inflates for each module, and loads ctypes at every start.
build/image.py makes the file and describes it; build/tables.py fills its tables. Only what the interpreter has loaded
by itself may be imported here.
"""

import _frozen_importlib
import _frozen_importlib_external
import _io
import _thread
import marshal
import sys

_NAMESPACE, _MODULE, _PACKAGE, _EXTENSION = range(4)
_RTLD_NOW = 2
_SEPARATOR = _frozen_importlib_external.path_sep


class Image:
    """The file of modules, and the executable, which has the rest. Both stay open: deleting or replacing them
    does not harm a running program."""

    def __init__(self, path: str) -> None:
        self._file = _io.FileIO(path)
        executable, _, start = sys._pyinstaller_pyz.rpartition("?")
        self._executable = _io.FileIO(executable)
        self._start = int(start)
        self._lock = _thread.allocate_lock()
        length = int.from_bytes(self._file.read(4), "little")
        self.modules, self._tables = marshal.loads(self._file.read(length))
        self._base = 4 + length

    def load(self, offset: int, length: int, is_rest: bool = False) -> object:
        """Whatever was marshalled there."""
        if not is_rest:
            return marshal.loads(self._read(self._file, self._base + offset, length))
        from zlib import decompress

        return marshal.loads(decompress(self._read(self._executable, self._start + offset, length)))

    def _read(self, file: object, offset: int, length: int) -> bytes:
        with self._lock:
            file.seek(offset)
            return file.read(length)

    def table(self, name: str) -> object:
        return self.load(*self._tables[name])


class Importer:
    """Finder and loader for all that is in the image, for the extension modules beside it, and for those that are
    unpacked with the native libraries when they are first needed."""

    def __init__(self, folder: str) -> None:
        self._folder = folder + _SEPARATOR
        self._image = Image(self._folder + "modules.bin")

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        entry = self._image.modules.get(name)
        if entry is None:
            return None
        kind, place, *_ = entry
        stem = self._folder + name.replace(".", _SEPARATOR)
        if kind == _EXTENSION:
            origin = self._folder + place.replace("/", _SEPARATOR) if place else _unpacked(name)
            loader = _frozen_importlib_external.ExtensionFileLoader(name, origin)
        else:
            origin = f"{stem}.py" if kind == _MODULE else f"{stem}{_SEPARATOR}__init__.py"
            loader = None if kind == _NAMESPACE else self
        spec = _frozen_importlib.ModuleSpec(name, loader, origin=origin)
        if kind in (_PACKAGE, _NAMESPACE):
            spec.submodule_search_locations = [stem]
        # With this, the module gets a `__file__`.
        spec.has_location = kind != _NAMESPACE
        return spec

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: object) -> None:
        name = module.__name__
        exec(self.get_code(name), module.__dict__)
        if name in _PREPARED:
            _PREPARED[name](module, self._image.table(name))

    def get_code(self, name: str) -> object:
        return self._image.load(*self._image.modules[name][1:])

    def is_package(self, name: str) -> bool:
        return self._image.modules[name][0] in (_PACKAGE, _NAMESPACE)


def _unpacked(name: str) -> str:
    from shimmy.worker.llama import payload

    carried = payload.carried()
    for library in payload.needed(name):
        from _ctypes import dlopen

        dlopen(str(carried.find(library)), _RTLD_NOW)
    return str(carried.find(payload.extensions()[name]))


def _prepare_expressions(module: object, table: dict) -> None:
    """Regular expressions: `table` has the arguments for `_sre.compile` by pattern and flags."""
    compile_anew = module.compile

    def compile(pattern: object, flags: int = 0) -> object:
        # A pattern that was parsed already cannot be looked up.
        known = table.get((pattern, flags)) if isinstance(pattern, str | bytes) else None
        return module._sre.compile(pattern, *known) if known else compile_anew(pattern, flags)

    module.compile = compile


def _prepare_code(name: str, builtin: object) -> object:
    """Text that a module hands to `exec` or `eval`: `table` has the marshalled code."""

    def prepare(module: object, table: dict) -> None:
        def run(source: object, *namespaces: dict) -> object:
            code = table.get(source)
            return builtin(source if code is None else marshal.loads(code), *namespaces)

        setattr(module, name, run)

    return prepare


def _prepare_references(module: object, table: dict) -> None:
    """Types that are named in strings: `table` has the marshalled code. The interpreter's `compile` takes 1.4 ms to be
    called for the first time, while it makes the classes of syntax trees."""

    def compile_known(source: str, *settings: object) -> object:
        code = table.get(source)
        return compile(source, *settings) if code is None else marshal.loads(code)

    module.compile = compile_known


# What a library does anew at every import, and how to have it done already. What is not in a table is done as always.
_PREPARED = {
    "re._compiler": _prepare_expressions,
    "dataclasses": _prepare_code("exec", exec),
    "collections": _prepare_code("eval", eval),
    "typing": _prepare_references,
}

sys.frozen = True
# What the interpreter itself is made of comes first, and from there.
sys.meta_path.insert(2, Importer(sys._MEIPASS))
# Nothing is to be imported from anywhere else, and what does not exist is not searched for.
sys.path.clear()
