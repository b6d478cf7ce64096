"""The hidden `_worker` command: one process, one model, frames on stdin and stdout.

The main thread loads the model and then is the step thread; the intake thread starts once there is a model to
tokenize for. Everything native is imported after the process has entered its sandbox.
"""

import gc
import os
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from shimmy.core import startup
from shimmy.core.errors import Fault, ModelFailed, ShimmyError
from shimmy.worker import channel, sandbox

if TYPE_CHECKING:
    from shimmy.core import ipc

# A step hands the interpreter lock to the intake thread at most this long at a time (default 5 ms).
_SWITCH_INTERVAL_SECONDS = 0.0005


def main() -> int:
    """Serves until the server closes the pipe. Exit codes: 0 after a clean end, 1 when the model would not load."""
    receiving, sending = channel.take_over_stdio()
    sandbox.enter()
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    messages = channel.receive(receiving)
    send = channel.Sender(sending)
    code = 0
    match next(messages, None):
        case startup.ListDevices(unusable, only):
            _list_devices(unusable, only, send)
        case startup.Quantize() as job:
            _quantize(job, messages, send)
        case startup.Convert() as job:
            _convert(job, messages, send)
        case startup.Load(paths, options):
            code = _serve(paths, options, messages, send)
        case None:
            pass
    # Nothing in llama.cpp needs a tidy end, and the system frees memory faster than destructors do.
    sys.stderr.flush()
    os._exit(code)


def _list_devices(unusable: dict[str, str], only: str | None, send: channel.Sender) -> None:
    from shimmy.worker.llama.devices import listing

    try:
        send(listing(lambda path: send(startup.Opening(path)), unusable, only))
    except (ShimmyError, OSError) as error:
        send(startup.LoadFailed(_as_fault(error)))


def _quantize(job: startup.Quantize, messages: "Iterable[ipc.ToWorker]", send: channel.Sender) -> None:
    import threading

    from shimmy.worker.quantize import quantize

    threading.Thread(target=_end_with_server, args=[messages], daemon=True).start()
    try:
        send(quantize(job, on_progress=send))
    except (ShimmyError, OSError) as error:
        send(startup.LoadFailed(_as_fault(error)))


def _convert(job: startup.Convert, messages: "Iterable[ipc.ToWorker]", send: channel.Sender) -> None:
    import threading

    from shimmy.worker.convert import convert

    threading.Thread(target=_end_with_server, args=[messages], daemon=True).start()
    try:
        send(convert(job, on_progress=send))
    except ShimmyError as error:
        send(startup.LoadFailed(_as_fault(error)))


def _end_with_server(messages: "Iterable[ipc.ToWorker]") -> None:
    for _ in messages:
        pass
    os._exit(1)


def _serve(
    paths: list[str], options: startup.EngineOptions, messages: "Iterable[ipc.ToWorker]", send: channel.Sender
) -> int:
    from shimmy.worker.loading import load

    started_at = time.monotonic()
    try:
        engine = load(
            paths,
            options,
            on_progress=lambda fraction: send(startup.LoadProgress(fraction)),
            on_open=lambda path: send(startup.Opening(path)),
        )
    except (ShimmyError, OSError) as error:
        send(startup.LoadFailed(_as_fault(error)))
        return 1
    send(engine.facts(time.monotonic() - started_at))
    _log_to_stderr()
    # Without a collection first: that takes longer than a token, and the first one may be waited for.
    gc.freeze()
    engine.run(messages, send)
    return 0


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(stream=sys.stderr, format="%(message)s")


def _as_fault(error: ShimmyError | OSError) -> Fault:
    if isinstance(error, ShimmyError):
        return error.fault()
    return ModelFailed(f"the native library cannot be opened: {error}").fault()
