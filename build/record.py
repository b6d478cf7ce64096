"""Runs the program in this process and notes what it imports, and what these imports compile:
`python -OO -m build.record FILE ARGUMENTS`.

For build/tables.py, which says what becomes of it. It ends when the program does, or when what it holds is wanted: at
the end of standard input. Nothing is imported here that the program would import later.
"""

import collections
import dataclasses
import marshal
import os
import re
import sys
import threading
import typing
from collections.abc import Callable
from typing import Any

EXPRESSIONS = "re._compiler"


class Recorder:
    """Stands between the modules and what compiles for them: by module, what it compiled and what came out."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[Any, Any]] = {EXPRESSIONS: {}, "dataclasses": {}, "collections": {}, "typing": {}}
        self._watch_expressions()
        dataclasses.exec = self._noted("dataclasses", "exec", exec)  # type: ignore[attr-defined]
        collections.eval = self._noted("collections", "eval", eval)  # type: ignore[attr-defined]
        typing.compile = self._compile_reference  # type: ignore[attr-defined]

    def _watch_expressions(self) -> None:
        compiler: Any = sys.modules[EXPRESSIONS]
        compile_anew, native = compiler.compile, compiler._sre
        wanted: list[Any] = []

        def compile(pattern: Any, flags: int = 0) -> Any:
            wanted.append((pattern, int(flags)))
            try:
                return compile_anew(pattern, flags)
            finally:
                wanted.pop()

        class Native:
            def __getattr__(self, name: str) -> Any:
                return getattr(native, name)

            def compile(self, pattern: Any, flags: int, code: list[int], *groups: Any) -> Any:
                # One that was handed over in parts has no text to be found by.
                if isinstance(pattern, str | bytes):
                    tables[EXPRESSIONS][wanted[-1]] = (int(flags), [int(word) for word in code], *groups)
                return native.compile(pattern, flags, code, *groups)

        tables = self.tables
        compiler.compile, compiler._sre = compile, Native()
        # What was compiled before would otherwise come from there.
        re.purge()

    def _noted(self, module: str, mode: str, builtin: Any) -> Any:
        def run(source: Any, *namespaces: Any) -> Any:
            if isinstance(source, str):
                code = compile(source, "<string>", mode, dont_inherit=True)
                self.tables[module][source] = marshal.dumps(code, 2)
            return builtin(source, *namespaces)

        return run

    def _compile_reference(self, source: str, *settings: Any) -> Any:
        """A type that is named in a string."""
        code = compile(source, *settings, dont_inherit=True)
        self.tables["typing"][source] = marshal.dumps(code, 2)
        return code


def imported() -> list[str]:
    """Not those that something else stands for (shimmy/lean.py)."""
    from shimmy.lean import Later

    return [name for name, module in [*sys.modules.items()] if not isinstance(module, Later)]


def main() -> None:
    out, *arguments = sys.argv[1:]
    recorder = Recorder()
    end = os._exit

    def finish(code: int) -> None:
        if arguments[0] == "_worker":
            # A thread is in the middle of it, or is not.
            import shimmy.worker.engine
        if arguments[0] == "serve":
            # The same, of what the protocols and the watch import after the start.
            from types import SimpleNamespace
            from typing import Any, cast

            import shimmy.models.watch  # noqa: F401
            from shimmy.core.extension import extension
            from shimmy.core.settings import Settings
            from shimmy.server.app import build_app

            extension("watchfiles", "_rust_notify")
            build_app(cast(Any, SimpleNamespace(models=None)), Settings()).prepare()
        with open(out, "wb") as file:
            marshal.dump((recorder.tables, imported()), file)
        end(code)

    # The worker reads its standard input itself, and ends by this.
    os._exit = finish  # type: ignore[assignment]
    if arguments[0] != "_worker":
        threading.Thread(target=at_end_of_input, args=[finish, end], daemon=True).start()
    sys.argv = ["shimmy", *arguments]
    from shimmy.__main__ import main as start

    try:
        start()
    except SystemExit:
        finish(0)


def at_end_of_input(finish: Callable[[int], None], end: Callable[[int], None]) -> None:
    sys.stdin.buffer.read()
    try:
        finish(0)
    except BaseException:
        # The end of a thread alone would end nothing else.
        sys.excepthook(*sys.exc_info())
        end(1)


if __name__ == "__main__":
    main()
