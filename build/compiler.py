"""Running CMake, the compiler and what calls them: the whole output in a log file, progress for a person watching."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from build.cache import say

_STEP = re.compile(r"\[(\d+)/(\d+)\]")
_TAIL_LINES = 40
_SECONDS_BETWEEN_LINES = 20.0
# The C++ compiler when $CXX names none, and where it comes from; Linux and the others like it are the default.
_DEFAULT = ("c++", "On Debian or Ubuntu: sudo apt install build-essential python3-venv")
_COMPILERS = {
    "darwin": ("c++", "Install it with: xcode-select --install"),
    "win32": ("clang++", "Install LLVM and Visual Studio's tools for C++, and call vcvarsall.bat x64 first."),
}


def require_compiler() -> None:
    """Exits with what to install when there is no C++ compiler."""
    name, remedy = _COMPILERS.get(sys.platform, _DEFAULT)
    chosen = shlex.split(os.environ.get("CXX", name))[0]
    if shutil.which(chosen) is None:
        sys.exit(f"shimmy build: no C++ compiler ('{chosen}' is not on PATH).\n{remedy}")


def cmake(*arguments: str, log: Path, label: str) -> None:
    """Run the CMake of this environment, as `logged` does."""
    logged(str(Path(sysconfig.get_path("scripts")) / "cmake"), *arguments, log=log, label=label)


def logged(*command: str, log: Path, label: str) -> None:
    """Run a command to which the programs beside it are known. Its output is appended to `log`; on failure the end of
    that is shown."""
    environment = {**os.environ, "PATH": f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"}
    with log.open("ab") as sink, _started(list(command), environment) as process:
        assert process.stdout is not None
        _follow(_copied(process.stdout, sink), label)
    if process.returncode:
        tail = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        sys.exit("\n".join([*tail, f"shimmy build: {label} failed; the whole log is {log}"]))


def _started(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _copied(lines: Iterable[bytes], sink: BinaryIO) -> Iterator[str]:
    for line in lines:
        sink.write(line)
        yield line.decode(errors="replace")


def _follow(lines: Iterable[str], label: str) -> None:
    """Show ninja's "[done/all]" counter: one line that changes on a terminal, else one line now and then."""
    live = sys.stderr.isatty()
    began = shown_at = time.monotonic()
    for line in lines:
        # pip indents what it passes on.
        step = _STEP.match(line.lstrip())
        now = time.monotonic()
        if not step or (now - shown_at < (0.2 if live else _SECONDS_BETWEEN_LINES)):
            continue
        shown_at = now
        text = f"{label}: {step[1]} of {step[2]} steps, {now - began:.0f} s"
        if live:
            print(f"\r\033[Kshimmy build: {text}", end="", file=sys.stderr, flush=True)
        else:
            say(text)
    if live:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
