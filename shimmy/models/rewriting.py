"""Weights that have to be written anew for a model that is made: which jobs of workers that takes, and whether the
files are such that it can be done. Who does the jobs is the business of others."""

import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from shimmy.core.errors import ModelInvalid, RequestError
from shimmy.models.checkpoint import CONFIG, PICKLED, PICKLES, POOLING, WEIGHTS, files_of, may_be_part
from shimmy.models.facts import FILE_TYPES, Facts, inspect
from shimmy.models.quantizing import file_type, quantized_types

if TYPE_CHECKING:
    from shimmy.core.ipc import Convert, Quantize
    from shimmy.store.workplace import Workplace

_PARTIAL = "unfinished"
# What is used of weights, and of that what every file system takes; none of the names that Windows has for devices.
_WEIGHTS_NAME = re.compile(r"model[A-Za-z0-9._-]{0,200}\.safetensors")


class Rewriting:
    """`jobs` are to be done in order, each with the outcome of the one before. `changes` says for people what they make
    of the model; `source_type` and `target_type` are what its weights are in before and after, `num_bytes` is the size
    of its files before."""

    def __init__(self, place: "Workplace", paths: Sequence[str], name: str, wanted: int | None) -> None:
        """Of the model in the files `paths`, one in GGUF of llama.cpp's type `wanted`, if that is said. Raises
        `ModelInvalid`, and `RequestError` for one that is quantized already."""
        self._place = place
        facts = _facts(paths)
        self.jobs: list[Convert | Quantize] = []
        self.changes: list[str] = []
        self.source_type = facts.quantization or "unknown"
        self.target_type = FILE_TYPES[wanted] if wanted is not None else self.source_type
        self.num_bytes = sum(map(os.path.getsize, paths))
        if paths[0].endswith(WEIGHTS):
            self._convert(paths, name)
        elif wanted is not None and (types := quantized_types(paths)):
            raise RequestError(
                f"quantize: the model is quantized already, to {' and '.join(types)}; quantization is only supported "
                "for F16, BF16 and F32 models",
                param="quantize",
            )
        if wanted is not None and self.target_type != facts.quantization:
            self._quantize(self.jobs[0].target if self.jobs else paths[0], wanted)

    @property
    def outcome(self) -> str:
        """The file that is the model once all jobs are done."""
        return self.jobs[-1].target

    def _convert(self, paths: Sequence[str], name: str) -> None:
        from shimmy.core.ipc import Convert

        self.jobs.append(Convert(list(paths), self._place.file("converted.gguf"), self._place.file(_PARTIAL), name))
        self.changes.append("converted from SafeTensors")

    def _quantize(self, source: str, wanted: int) -> None:
        from shimmy.core.ipc import Quantize

        target, partial = self._place.file("quantized.gguf"), self._place.file(_PARTIAL)
        self.jobs.append(Quantize(source, target, partial, wanted))
        self.changes.append(f"quantized to {self.target_type}")


def _facts(paths: Sequence[str]) -> Facts:
    inspection = inspect(paths)
    if inspection.kind != "model" or inspection.facts is None or inspection.invalid:
        raise ModelInvalid(f"it cannot be served: {inspection.invalid or f'it is a {inspection.kind}'}")
    return inspection.facts


def wanted_type(name: str) -> int:
    """llama.cpp's number for a type that a client names. Raises `RequestError`."""
    try:
        return file_type(name)
    except ValueError as error:
        raise RequestError(f"quantize: {error}", param="quantize") from None


def is_checkpoint(names: Iterable[str]) -> bool:
    """Whether files that are called so are meant to be a model as Hugging Face's libraries write one."""
    return any(name.endswith((WEIGHTS, *PICKLES)) or _within(name) == CONFIG for name in names)


def laid_out(place: "Workplace", files: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The checkpoint in `files`, names and paths, as it is in a folder: its files as `files_of` gives them. What is no
    part of one is left out. Raises `RequestError`, `ModelInvalid`, `OSError`."""
    names: dict[str, str] = {}
    for name, path in files:
        if within := _within(name):
            # To some file systems names that differ in case only are one.
            if within.lower() in names:
                raise RequestError(f"files: two are called {within}", param="files")
            names[within.lower()] = within
            place.take(path, within)
    found = files_of(place.path, [name for name in names.values() if name != POOLING])
    if found is None:
        if any(name.endswith(PICKLES) for name, _ in files):
            raise ModelInvalid(f"what was sent cannot be served: {PICKLED}", param="files")
        raise RequestError(f"files: a model in SafeTensors has {CONFIG} and model*{WEIGHTS}", param="files")
    paths, reason = found
    if reason is None:
        reason = inspect(paths).invalid
    if reason:
        raise ModelInvalid(f"what was sent cannot be served: {reason}", param="files")
    return paths


def _within(name: str) -> str | None:
    """Where in the folder of a checkpoint a file belongs; None for what is no part of one. Nothing else becomes a
    path."""
    if name == POOLING or name.endswith(f"/{POOLING}"):
        return POOLING
    last = name.rpartition("/")[2]
    if last.endswith((WEIGHTS, *PICKLES)):
        return last if _WEIGHTS_NAME.fullmatch(last) else None
    return last if may_be_part(last) else None
