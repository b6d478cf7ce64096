"""Which files of a repository are one model, what its quantization is called, and which of them to take."""

import re
from collections.abc import Callable, Iterable

import msgspec

from shimmy.core.errors import ModelNotFound, RequestError

# Best first: what loses little and is small. What is none of these comes after them, whole floats last.
PRIORITY = ("Q4_K_M", "Q5_K_M", "Q4_K_S", "Q5_K_S", "Q4_0", "Q5_0", "Q3_K_M", "Q3_K_S", "Q8_0", "Q2_K")
FLOATS = ("F16", "FP16", "BF16", "F32", "FP32")
MAX_SHARDS = 1024

_QUANTIZATION = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q[1-9]_[A-Z0-9_]+|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32))(?=$|[-._/])",
    re.IGNORECASE,
)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
# Beside the model itself: projectors for images, statistics for quantizing, adapters.
_NO_MODEL = re.compile(r"mmproj|imatrix|(?:^|[-._/])lora(?=$|[-._/])", re.IGNORECASE)


class RemoteFile(msgspec.Struct, frozen=True):
    """`sha256` is 64 hex digits; `path` is what the hub calls it, and never a path of ours."""

    path: str
    size: int
    sha256: str


class Candidate(msgspec.Struct, frozen=True):
    """One model of a repository: a file, or all its shards in order. `quantization` is None where no name has one."""

    stem: str
    quantization: str | None
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def candidates(files: Iterable[RemoteFile]) -> list[Candidate]:
    """All whole models among the files of a repository."""
    sets: dict[tuple[str, int], dict[int, RemoteFile]] = {}
    for file in files:
        stem, dot, extension = file.path.rpartition(".")
        if not dot or extension.lower() != "gguf" or _NO_MODEL.search(stem):
            continue
        shard = _SHARD.fullmatch(stem)
        key = (shard["stem"], int(shard["count"])) if shard else (stem, 1)
        sets.setdefault(key, {})[int(shard["number"]) if shard else 1] = file
    return [
        Candidate(stem, quantization_of(stem), tuple(found[number] for number in range(1, count + 1)))
        for (stem, count), found in sorted(sets.items())
        if count <= MAX_SHARDS and set(found) == set(range(1, count + 1))
    ]


def quantization_of(stem: str) -> str | None:
    """What a file's name says last, or the name of its folder: `model-Q4_K_M`, `Q4_K_M/model`."""
    for part in reversed(stem.split("/")):
        if found := _QUANTIZATION.findall(part):
            return str(found[-1]).upper()
    return None


def by_file(found: list[Candidate], path: str) -> Candidate:
    """The model that has this file. Raises `ModelNotFound`."""
    for candidate in found:
        if any(file.path == path for file in candidate.files):
            return candidate
    raise ModelNotFound(f"there is no model {path!r} in the repository; {_listed(found)}", param="model")


def by_tag(found: list[Candidate], tag: str) -> Candidate:
    """The one of this quantization, or else of this file name. Raises `ModelNotFound`, or `RequestError` where there
    are several."""
    wanted = tag.upper()
    matching = [each for each in found if (each.quantization or "") == wanted]
    matching = matching or [each for each in found if each.stem.rpartition("/")[2].upper() == wanted]
    if not matching:
        raise ModelNotFound(f"there is no {tag!r} in the repository; {_listed(found)}", param="model")
    return _only(matching)


def preferred(found: list[Candidate], fits: Callable[[int], bool] = lambda size: True) -> Candidate:
    """By `PRIORITY`, of those whose size fits; where none does, the smallest. Raises like `by_tag`."""
    if not found:
        raise ModelNotFound("there is no GGUF model in the repository", param="model")
    fitting = [each for each in found if fits(each.size)]
    if not fitting:
        return min(found, key=lambda each: each.size)
    # Of those that the list does not know, the one that has lost least.
    best = min(fitting, key=lambda each: (_rank(each), -each.size))
    return _only([each for each in fitting if each.quantization == best.quantization])


def _rank(candidate: Candidate) -> int:
    quantization = candidate.quantization or ""
    if quantization in PRIORITY:
        return PRIORITY.index(quantization)
    return len(PRIORITY) + 1 if quantization in FLOATS else len(PRIORITY)


def _only(matching: list[Candidate]) -> Candidate:
    """Several models of one quantization: who asks must say which."""
    if len(matching) > 1:
        raise RequestError(f"the repository has several; name the file: {_listed(matching)}", param="model")
    return matching[0]


def _listed(found: list[Candidate]) -> str:
    if not found:
        return "there is no GGUF model in it"
    paths = [each.files[0].path if each.quantization is None else each.quantization for each in found]
    if len(set(paths)) < len(paths):
        paths = [each.files[0].path for each in found]
    more = f" and {len(paths) - 40} more" if len(paths) > 40 else ""
    return f"there is {', '.join(paths[:40])}{more}"
