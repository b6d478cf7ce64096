"""A second device for llama.cpp on any machine: this CPU, offered over loopback by a process of its own through ggml's
RPC backend. llama.cpp takes such a device for a GPU with memory of its own, and says what it puts there.

    python -m tests.fakes.remote_gpu serve NUM_DEVICES               offers devices; prints the endpoint
    python -m tests.fakes.remote_gpu load ENDPOINT MODEL SETTINGS [DRAFT]
                                                   loads a model, and a draft model; prints what came of it, as JSON

Both are processes because devices cannot be taken back from the one that has them.
"""

import ctypes as c
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shimmy.hardware.libraries import backend_file, linked_file

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 90
CONTEXT_LENGTH = 256
# A process of this file opens far fewer.
_MAX_FILES = 256


@contextmanager
def remote_gpus(num_devices: int) -> Iterator[str]:
    """Their endpoint. Each is called RPC0, RPC1 ... by those who load it."""
    command = [sys.executable, "-m", "tests.fakes.remote_gpu", "serve", str(num_devices)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout
        endpoint = server.stdout.readline().strip()
        assert endpoint, "it could not listen"
        yield endpoint
    finally:
        server.kill()
        server.communicate()


def load(endpoint: str, model: Path, draft: Path | None = None, **settings: Any) -> dict[str, Any]:
    """`settings` as in the `[engine]` table, with `_`. Returns `error`, or else `layers`, `buffers`, `gpus`,
    `overridden` (each tensor whose place was overridden, and the place), `log`, and the greedy `text` that follows."""
    table = {name.replace("_", "-"): value for name, value in settings.items()}
    command = [sys.executable, "-m", "tests.fakes.remote_gpu", "load", endpoint, str(model), json.dumps(table)]
    command += [] if draft is None else [str(draft)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


def _rpc() -> c.CDLL:
    from shimmy.worker.llama import backend, libllama

    backend.start()
    path = libllama.find(backend_file("rpc"))
    assert libllama.load_backend(path)
    return c.CDLL(str(path))


def _serve(num_devices: int) -> None:
    from shimmy.worker.llama.libllama import ggml

    rpc, registry = _rpc(), ggml()
    cpu = registry.ggml_backend_dev_get(0)
    devices = (c.c_void_p * num_devices)(*[cpu] * num_devices)
    # It says a lot itself, and nothing of which port it got.
    told = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    start = rpc.ggml_backend_rpc_start_server
    start.restype, start.argtypes = None, [c.c_char_p, c.c_char_p, c.c_size_t, c.c_size_t, c.c_void_p]
    # It comes back only where it cannot listen.
    arguments = (b"127.0.0.1:0", None, 1, num_devices, c.addressof(devices))
    serving = threading.Thread(target=start, args=arguments)
    serving.start()
    while serving.is_alive() and (port := _listening_port()) is None:
        time.sleep(0.01)
    if serving.is_alive():
        print(f"127.0.0.1:{port}", file=told, flush=True)
    serving.join()


def _listening_port() -> int | None:
    """Of the one socket that this process has, once connections to it wait for nothing else."""
    for number in range(_MAX_FILES):
        try:
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as found:
                    if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        return int(found.getsockname()[1])
        except OSError:
            continue
    return None


def _load(endpoint: str, model: str, settings: str, *drafts: str) -> None:
    import msgspec

    from shimmy.core.engine_settings import EngineSettings, parse_adapter
    from shimmy.core.errors import ShimmyError
    from shimmy.core.ipc import EngineOptions
    from shimmy.core.request import Sampling, Tokens
    from shimmy.worker.llama import backend, libllama
    from shimmy.worker.loading import load_engine
    from tests.worker.test_engine import Session

    rpc = _rpc()
    rpc.ggml_backend_rpc_add_server.restype = c.c_void_p
    registry = rpc.ggml_backend_rpc_add_server(endpoint.encode())
    register = c.PyDLL(str(libllama.find(linked_file("ggml")))).ggml_backend_register
    register.restype, register.argtypes = None, [c.c_void_p]
    register(registry)
    table = msgspec.json.decode(settings, type=EngineSettings)
    adapters, given = tuple(map(parse_adapter, table.lora)), msgspec.msgpack.encode(table)
    options = EngineOptions(
        context_length=CONTEXT_LENGTH,
        num_sequences=1,
        num_threads=1,
        settings=given,
        adapters=adapters,
        draft_paths=drafts,
    )
    log: list[str] = []
    try:
        with backend.listening(log.append):
            engine = load_engine([model], options, lambda fraction: None)
    except ShimmyError as error:
        return print(json.dumps({"error": error.message}))
    session = Session(engine)
    session.submit("a", Tokens(list(range(10, 40))), max_tokens=8, sampling=Sampling(temperature=0))
    session.run()
    lines = "".join(log).splitlines()
    mark = " buffer type overridden to "
    overridden = dict((line.split()[1], line.split(mark)[1]) for line in lines if mark in line)
    facts = engine.facts(0.0)
    told = {"layers": facts.layers, "buffers": facts.buffers, "gpus": facts.gpus, "overridden": overridden}
    print(json.dumps({**told, "log": lines, "text": session.text("a")}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(int(sys.argv[2]))
    else:
        _load(*sys.argv[2:])
