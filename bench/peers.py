"""The servers that figures are published of, with flags that make them comparable: threads, context, sequences. Their
names can be given to --server in the place of NAME=COMMAND.
"""

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from build import peers

MODEL = "smollm2-135m-instruct.q4-1"
MODEL_FILE = "models/SmolLM2-135M-Instruct.Q4_1.gguf"
_NUM_SEQUENCES = 16
_CONTEXT_TOKENS = 8192


def _num_threads() -> int:
    return len(os.sched_getaffinity(0))


def _shimmy(*flags: str) -> str:
    """What SHIMMY_EXE names, else this checkout."""
    named = os.environ.get("SHIMMY_EXE")
    program = [os.path.abspath(named)] if named else [sys.executable, "-m", "shimmy"]
    return shlex.join([*program, "serve", "--bind", "127.0.0.1:{port}", *flags])


def _llama_server(*flags: str) -> str:
    return shlex.join([str(peers.llama_server()), *flags, "--port", "{port}"])


def _fastapi(*flags: str) -> str:
    """A second request ends the first one by default, which no figure could be made of."""
    numbers = ["--n_threads", str(_num_threads()), "--n_ctx", str(_CONTEXT_TOKENS)]
    others = ["--interrupt_requests", "False", "--verbose", "False"]
    module = [str(peers.python_server()), "-m", "llama_cpp.server", "--model", MODEL_FILE]
    return shlex.join([*module, *numbers, *others, *flags, "--port", "{port}"])


def _same_flags() -> list[str]:
    sizes = ["-t", _num_threads(), "-c", _CONTEXT_TOKENS, "-np", _NUM_SEQUENCES, "-b", 2048, "-ub", 512]
    return ["-m", MODEL_FILE, *map(str, sizes), "--kv-unified"]


def _embedding_flags(num_threads: int) -> list[str]:
    """As many texts as llama-server may be asked at once here, and batches that hold them."""
    sizes = ["-t", num_threads, "-np", _NUM_SEQUENCES, "-c", _CONTEXT_TOKENS, "-b", 2048, "-ub", 2048]
    return ["--embeddings", "--pooling", "mean", *map(str, sizes), "--kv-unified"]


def _own_flags() -> list[str]:
    sizes = ["--threads", _num_threads(), "--ctx", _CONTEXT_TOKENS, "--parallel", _NUM_SEQUENCES]
    return [*map(str, sizes), "--preload", MODEL]


# With the demo model loaded from the start. "fastapi" computes logits of every prompt token unless told otherwise.
SERVING: dict[str, Callable[[], str]] = {
    "shimmy": lambda: _shimmy(*_own_flags()),
    "llama-server": lambda: _llama_server(*_same_flags()),
    "llama-server-defaults": lambda: _llama_server("-m", MODEL_FILE),
    "fastapi": _fastapi,
    "fastapi-tuned": lambda: _fastapi("--logits_all", "False"),
}
# With what keeps prompts over a restart, where a server has that.
LASTING = SERVING | {"shimmy": lambda: _shimmy(*_own_flags(), "--kv-cache", "2G")}
# Making vectors with the model in a file, on so many threads, or on one for each core.
EMBEDDING: dict[str, Callable[[str, int | None], str]] = {
    "shimmy": lambda model, threads: _shimmy("--threads", str(threads or _num_threads()), "--model-path", model),
    "llama-server": lambda model, threads: _llama_server("-m", model, *_embedding_flags(threads or _num_threads())),
}
# Without a model, where a server can start without one.
IDLE: dict[str, Callable[[], str]] = {"shimmy": _shimmy, "llama-server": _llama_server, "fastapi": _fastapi}


def named(spec: str, known: dict[str, Callable[[], str]] = SERVING) -> tuple[str, str]:
    """Name and command of a --server. Exits when it is neither one of ours nor NAME=COMMAND."""
    name, equals, command = spec.partition("=")
    if not equals and name in known:
        return name, known[name]()
    if not equals or not name or not command:
        sys.exit(f"bench: --server {spec!r} is neither NAME=COMMAND nor one of {', '.join(known)}")
    return name, command


def files(name: str) -> list[Path]:
    """All that one of `IDLE` needs beside the system, or beside Python; empty where that cannot be said."""
    match name:
        case "shimmy" if _is_whole(named_path := Path(os.environ.get("SHIMMY_EXE", ""))):
            return [named_path]
        case "llama-server":
            return [path for path in peers.llama_server().parent.iterdir() if path.is_file()]
        case "fastapi":
            return [path for path in (peers.python_server().parents[1] / "lib").rglob("*") if path.is_file()]
    return []


def _is_whole(program: Path) -> bool:
    """False for the command of an environment, which is only a script."""
    if not program.is_file():
        return False
    with program.open("rb") as file:
        return file.read(2) != b"#!"
