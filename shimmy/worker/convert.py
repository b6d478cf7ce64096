"""The job of a worker that serves nothing: a checkpoint as a GGUF file, whole or not at all."""

import os
import time
from collections.abc import Callable

from shimmy.convert.conversion import Plan, plan, write
from shimmy.core import ipc
from shimmy.core.errors import ShimmyError
from shimmy.models.gguf import check_servable, read_header
from shimmy.worker.unfinished import Unfinished, not_written, require_room

_PROGRESS_INTERVAL_SECONDS = 0.05
_BUFFER_BYTES = 1 << 20


def convert(job: ipc.Convert, on_progress: Callable[[ipc.LoadProgress], None]) -> ipc.Converted:
    """Raises `ModelInvalid` for what cannot be converted, `ShimmyError` for what is wrong with the target."""
    made = plan(job.source, job.name)
    try:
        num_bytes = write_whole(
            made, job.target, job.partial, lambda fraction: on_progress(ipc.LoadProgress(fraction)), replace=job.replace
        )
    except FileExistsError as error:
        raise ShimmyError(f"{job.target} has come into being meanwhile, and is left as it is") from error
    return ipc.Converted(len(made.tensors), num_bytes)


def write_whole(
    made: Plan, target: str, partial: str, on_progress: Callable[[float], None], *, replace: bool = False
) -> int:
    """Returns the size in bytes. Raises `FileExistsError`, `ModelInvalid`, or `ShimmyError` with the reason."""
    try:
        require_room(os.path.dirname(target), made.tensor_bytes)
        with Unfinished(target, partial) as file:
            with os.fdopen(os.dup(file.descriptor), "wb", _BUFFER_BYTES) as sink:
                write(made, sink, _throttled(on_progress))
            # What a hostile tokenizer leads to is refused like a hostile header.
            header = read_header(file.path)
            check_servable([header])
            file.publish(replace=replace)
    except FileExistsError:
        raise
    except OSError as error:
        raise not_written(target, error) from error
    return header.file_bytes


def _throttled(on_progress: Callable[[float], None]) -> Callable[[float], None]:
    last_at = 0.0

    def report(fraction: float) -> None:
        nonlocal last_at
        now = time.monotonic()
        if now - last_at >= _PROGRESS_INTERVAL_SECONDS:
            last_at = now
            on_progress(fraction)

    return report
