"""The job of a worker that serves nothing: a model's file in another quantization, whole or not at all."""

import os
import time
from collections.abc import Callable

from shimmy.core import ipc
from shimmy.core.errors import ModelFailed, ModelInvalid, ShimmyError, StoreFull
from shimmy.hardware.cpu import num_usable_cores
from shimmy.models.gguf import read_header
from shimmy.worker.llama import backend
from shimmy.worker.llama.quantize import Conversion, Outcome, plan, write
from shimmy.worker.unfinished import Unfinished, not_written, require_room

_PROGRESS_INTERVAL_SECONDS = 0.05
# What the C++ library calls every write that fails.
_WRITE_FAILED = "iostream error"


def quantize(job: ipc.Quantize, on_progress: Callable[[ipc.QuantizeProgress], None]) -> ipc.Quantized:
    """Raises `ModelFailed` with what llama.cpp says of the model, `ShimmyError` for what is wrong with the target."""
    backend.start()
    conversion = Conversion(job.source, job.file_type, job.num_threads or num_usable_cores(), job.allow_requantize)
    try:
        # The header comes to the tensors, so that the disk may be full all the same.
        require_room(os.path.dirname(job.target), plan(conversion).tensor_bytes)
        with Unfinished(job.target, job.partial) as file:
            outcome = _write(conversion, file, _throttled(on_progress))
            num_bytes = _size_when_whole(file)
            file.publish(replace=job.replace)
    except FileExistsError as error:
        raise ShimmyError(f"{job.target} has come into being meanwhile, and is left as it is") from error
    except OSError as error:
        raise not_written(job.target, error) from error
    return ipc.Quantized(outcome.num_tensors, outcome.num_fallbacks, num_bytes)


def _write(conversion: Conversion, file: Unfinished, on_progress: Callable[[int, int], None]) -> Outcome:
    try:
        return write(conversion, file.path, on_progress)
    except ModelFailed as error:
        if _WRITE_FAILED not in error.message:
            raise
        written = os.fstat(file.descriptor).st_size
        raise StoreFull(f"the new file cannot be written beyond {written:,} bytes: is the disk full?") from error


def _size_when_whole(file: Unfinished) -> int:
    """llama.cpp does not notice every write that fails."""
    try:
        return read_header(file.path).file_bytes
    except ModelInvalid as error:
        raise ShimmyError(f"the new file has not been written whole: {error.message}") from error


def _throttled(on_progress: Callable[[ipc.QuantizeProgress], None]) -> Callable[[int, int], None]:
    last_at = 0.0

    def report(num_done: int, num_tensors: int) -> None:
        nonlocal last_at
        now = time.monotonic()
        if now - last_at >= _PROGRESS_INTERVAL_SECONDS:
            last_at = now
            on_progress(ipc.QuantizeProgress(num_done, num_tensors))

    return report
