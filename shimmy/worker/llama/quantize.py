"""llama.cpp's own quantizer, and what its log says of the work: no function of its interface does."""

import ctypes as c
import os
import re
from collections.abc import Callable
from typing import Any

import msgspec

from shimmy.core.errors import ModelFailed
from shimmy.worker.llama import abi, backend
from shimmy.worker.llama.libllama import llama

# llama-quant.cpp, llama_model_quantize_impl: before each tensor, and at the end.
_TENSOR = re.compile(r"\[ *(\d+)/ *(\d+)\]")
_SIZE = re.compile(r"quant size += +([\d.]+) MiB")
_FALLBACKS = re.compile(r"(\d+) of \d+ tensor\(s\) required fallback quantization")
_FAILED = "llama_model_quantize: failed to quantize: "


class Conversion(msgspec.Struct, frozen=True):
    """What is to be made of a model: `file_type` is llama.h's llama_ftype."""

    source: str
    file_type: int
    num_threads: int
    allow_requantize: bool


class Outcome(msgspec.Struct):
    """`tensor_bytes` to about 10 kB; `num_fallbacks` tensors cannot have the type that was asked for."""

    num_tensors: int = 0
    num_fallbacks: int = 0
    tensor_bytes: int = 0


def plan(conversion: Conversion) -> Outcome:
    """What would come of it; nothing is written. Raises `ModelFailed` with llama.cpp's reason."""
    return _run(conversion, "", lambda num_done, num_tensors: None, dry_run=True)


def write(conversion: Conversion, path: str, on_progress: Callable[[int, int], None]) -> Outcome:
    """Writes the file; `on_progress` gets the number of tensors done and of all. Raises as `plan` does, and then leaves
    in the file what it has got so far."""
    return _run(conversion, path, on_progress, dry_run=False)


def _run(conversion: Conversion, path: str, on_progress: Callable[[int, int], None], *, dry_run: bool) -> Outcome:
    outcome = Outcome()

    def hear(text: str) -> None:
        if tensor := _TENSOR.match(text):
            outcome.num_tensors = int(tensor[2])
            on_progress(int(tensor[1]) - 1, outcome.num_tensors)
        elif size := _SIZE.search(text):
            outcome.tensor_bytes = int(float(size[1]) * (1 << 20))
        elif fallbacks := _FALLBACKS.search(text):
            outcome.num_fallbacks = int(fallbacks[1])

    backend.last_error("")
    with backend.listening(hear):
        failed = llama().llama_model_quantize(
            os.fsencode(conversion.source), os.fsencode(path), c.byref(_parameters(conversion, dry_run))
        )
    if failed:
        # What comes before it in the log are frames around the same words.
        raise ModelFailed(backend.last_error("llama.cpp could not quantize the model").rpartition(_FAILED)[2])
    return outcome


def _parameters(conversion: Conversion, dry_run: bool) -> Any:
    parameters: abi.llama_model_quantize_params = llama().llama_model_quantize_default_params()
    parameters.ftype = conversion.file_type
    parameters.nthread = conversion.num_threads
    parameters.allow_requantize = conversion.allow_requantize
    parameters.dry_run = dry_run
    return parameters
