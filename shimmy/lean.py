"""Stand-ins for what libraries import at their top and a start does not use: the real module comes on its first use. A
stand-in that no longer fits a library costs time and nothing else.

tests/test_start_imports.py says what is loaded when the first request is answered, and drives the program through all
that is not.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _sre  # type: ignore[import-not-found]
import sys
import time
from _frozen_importlib import ModuleSpec
from _thread import allocate_lock
from types import FunctionType, MethodType, ModuleType

# typing itself imports what may get a stand-in.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_CO_COROUTINE = 0x80  # inspect.CO_COROUTINE
_lock = allocate_lock()
_wanted: set[str] = set()


def install(more: dict[str, dict[str, Any]] | None = None) -> None:
    """To be called before anything else is imported; what is there already stays."""
    STAND_INS.update(more or {})
    sys.meta_path.insert(0, Finder)


class Finder:
    """Makes the import system find stand-ins, until `load` wants the real module."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name in STAND_INS and name not in _wanted:
            # A package, so that what is imported from inside comes here, too.
            loader: Any = Finder
            return ModuleSpec(name, loader, is_package=True)
        parent = name.rpartition(".")[0]
        if isinstance(sys.modules.get(parent), Later):
            from importlib.util import find_spec

            load(parent)
            return find_spec(name)
        return None

    @staticmethod
    def create_module(spec: ModuleSpec) -> Later:
        return Later(spec.name)

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        module.__dict__.update(STAND_INS[module.__name__])
        if module.__name__ in _SAME:
            module.__dict__.update(_SAME[module.__name__]())


class Later(ModuleType):
    """Stands for a module until a function of it is called. What it is given it has at once."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # By their names (PEP 8): a constant is a value, and `except` takes nothing but real classes.
        if is_loaded(self.__name__) or name.isupper() or name.endswith(("Error", "Exception")):
            return getattr(load(self.__name__), name)
        return Name(self.__name__, name)


class Name:
    """Stands for a function or a class in a module that is not loaded: to be called, inherited from, asked for its
    attributes, or made part of a type."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _resolve(self)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_resolve(self), name)

    def __getitem__(self, item: Any) -> Any:
        return _resolve(self)[item]

    def __or__(self, other: Any) -> Any:
        return _resolve(self) | other

    def __ror__(self, other: Any) -> Any:
        return other | _resolve(self)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any]:
        return (_resolve(self),)

    def __instancecheck__(self, instance: Any) -> bool:
        # There are no instances of a class that was never loaded.
        return is_loaded(self._module) and isinstance(instance, _resolve(self))


def _resolve(name: Name) -> Any:
    return getattr(load(name._module), name._name)


def is_loaded(name: str) -> bool:
    """Whether the real module is there, and whole: another thread may be in the middle of importing it."""
    module = sys.modules.get(name)
    if module is None or isinstance(module, Later):
        return False
    return not getattr(module.__spec__, "_initializing", False)


def load(name: str) -> ModuleType:
    """The real module, once it is whole. Its parents have to be real for that."""
    if not is_loaded(name):
        with _lock:
            for end in (position for position, char in enumerate(f"{name}.") if char == "."):
                _wanted.add(name[:end])
                if isinstance(sys.modules.get(name[:end]), Later):
                    del sys.modules[name[:end]]
        __import__(name)
    return sys.modules[name]


def _http_date(timestamp: float) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(timestamp))


def _is_function(value: Any) -> bool:
    return isinstance(value, FunctionType)


def _is_method(value: Any) -> bool:
    return isinstance(value, MethodType)


def _is_coroutine_function(value: Any) -> bool:
    from functools import partial

    while isinstance(value, MethodType | partial):
        value = value.__func__ if isinstance(value, MethodType) else value.func
    return isinstance(value, FunctionType) and bool(value.__code__.co_flags & _CO_COROUTINE)


def _clean_doc(doc: str) -> str:
    return load("inspect").cleandoc(doc) if "\n" in doc or "\t" in doc else doc.lstrip()


def _signature(value: Any, **settings: Any) -> Any:
    # @dataclass puts it into the docstring of every class that has none, and without docstrings that is every class.
    if sys._getframe(1).f_globals["__name__"] == "dataclasses":
        return "(...)"
    return load("inspect").signature(value, **settings)


def _unwrap(function: Any, **settings: Any) -> Any:
    return load("inspect").unwrap(function, **settings) if hasattr(function, "__wrapped__") else function


def _typing() -> dict[str, Any]:
    import typing

    names = ("get_type_hints", "NotRequired", "Required")
    return {name: getattr(typing, name) for name in names}


def _datetime() -> dict[str, Any]:
    """The module in Python has the same once more in Python; from 3.12 on, it no longer has."""
    import _datetime  # type: ignore[import-not-found]

    return {name: value for name, value in vars(_datetime).items() if not name.startswith("__")}


# What is the same in another module.
_SAME = {"typing_extensions": _typing, "datetime": _datetime}


def _type_var(name: str, *, default: Any = None, **bounds: Any) -> Any:
    from typing import TypeVar

    return TypeVar(name, **bounds)


def _same(value: Any) -> Any:
    return value


def _undecorated(*reason: Any, **settings: Any) -> Callable[[Any], Any]:
    return _same


def _singular_or_plural(singular: str, plural: str, count: int) -> str:
    return singular if count == 1 else plural


# Modules, and what of them every start uses or needs as a class.
STAND_INS: dict[str, dict[str, Any]] = {
    # Nothing of ours speaks TLS: this is 2.4 MB of OpenSSL.
    "ssl": {"SSLError": OSError, "OP_NO_COMPRESSION": 0x20000},
    "asyncio.sslproto": {},
    "asyncio.staggered": {},
    "subprocess": {"PIPE": -1, "STDOUT": -2, "DEVNULL": -3},
    "hashlib": {},
    "random": {},
    "secrets": {},
    # HTTP/2 and WebSocket: with the first connection that speaks them.
    "hypercorn.protocol.h2": {},
    "hypercorn.protocol.ws_stream": {},
    # Types for annotations, but for one that is called.
    "hypercorn.typing": {"ConnectionState": _same},
    # Of Hypercorn's configuration: files, statistics, UDP, several processes, WSGI.
    "hypercorn.statsd": {},
    "hypercorn.asyncio.statsd": {},
    "hypercorn.asyncio.udp_server": {},
    "logging.config": {},
    "multiprocessing": {},
    "multiprocessing.synchronize": {},
    "platform": {},
    "tomllib": {},
    "wsgiref": {},
    "wsgiref.handlers": {"format_date_time": _http_date},
    # Of Starlette: threads, files, cookies, names of statuses, addresses.
    "anyio": {},
    "anyio.abc": {},
    "anyio.to_thread": {},
    "email": {},
    "email.utils": {},
    "http": {},
    "http.client": {},
    "http.cookies": {},
    "ipaddress": {"AddressValueError": ValueError},
    "json": {},
    "mimetypes": {},
    "starlette.formparsers": {"MultiPartException": type("MultiPartException", (Exception,), {})},
    "starlette.websockets": {},
    "pathlib": {},
    "shlex": {},
    "tempfile": {},
    # As if it were not installed, for those who can do without, which are all but Starlette.
    "typing_extensions": {
        "TypeVar": _type_var,
        "deprecated": _undecorated,
    },
    # msgspec knows these types; nothing of ours has any.
    "datetime": {},
    "uuid": {"UUID": type("UUID", (), {}), "SafeUUID": type("SafeUUID", (), {"unknown": None})},
    "decimal": {"Decimal": type("Decimal", (), {})},
    "msgspec._json_schema": {},
    "msgspec.inspect": {},
    "msgspec.toml": {},
    "msgspec.yaml": {},
    # For tracebacks and help. Nobody translates click's messages for us.
    "inspect": {
        "cleandoc": _clean_doc,
        "iscoroutinefunction": _is_coroutine_function,
        "isfunction": _is_function,
        "ismethod": _is_method,
        "signature": _signature,
        "unwrap": _unwrap,
    },
    "linecache": {},
    "locale": {},
    "textwrap": {},
    "gettext": {"gettext": _same, "ngettext": _singular_or_plural},
}

_PATTERN = _sre.compile("", 0, [1], 0, {}, (None,))
# More that a worker can do without until its model is being read; the server needs these for its first answer.
WORKER_STAND_INS: dict[str, dict[str, Any]] = {
    # typing names two classes of it
    "re": {"Pattern": type(_PATTERN), "Match": type(_PATTERN.match(""))},
    "signal": {name: getattr(_signal, name) for name in dir(_signal) if name == "signal" or name.startswith("SIG")},
    # The other system's paths and addresses, for pathlib
    "ntpath": {},
    "urllib.parse": {},
    # minijinja's own template functions
    "html": {},
}
