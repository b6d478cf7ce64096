"""What an estimate has from files, beside what the catalog knows of the model: the draft model's facts, and the tensors
that `override-tensor` moves. Reads headers, so it is nothing for the event loop.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from shimmy.core.errors import ModelInvalid
from shimmy.pool.estimate import Details, Draft, file_bytes, settings_of

if TYPE_CHECKING:
    from shimmy.core.engine_settings import EngineSettings
    from shimmy.core.startup import EngineOptions
    from shimmy.models.gguf import Tensor
    from shimmy.models.listing import Model

_BLOCK = re.compile(r"blk\.(\d+)\.")
# While a pattern is matched no other thread runs. For a name, which has 63 bytes at most, these keep that short.
_MAX_REPEATS, _MAX_GROUPS = 3, 4
_LITERAL = re.compile(r"\\.|\[[^]]*\]", re.DOTALL)
# Or what C++ does not know, such as a flag that lets blanks stand between the two.
_REPEATED_GROUP = re.compile(r"\)[*+{]|\(\?[^:=!]")


def are_needed(options: "EngineOptions") -> bool:
    settings = settings_of(options)
    return bool(options.draft_paths) or (settings is not None and bool(settings.override_tensor))


def details(model: "Model", options: "EngineOptions") -> Details:
    """Files that cannot be read say nothing: what is wrong with them the worker says better."""
    draft = _draft(options.draft_paths) if options.draft_paths else None
    settings = settings_of(options)
    if settings is None or not settings.override_tensor:
        return Details(draft)
    tensors = _tensors(model.paths)
    return Details(draft, _moved(tensors, settings), _blocks(tensors))


def _draft(paths: Sequence[str]) -> Draft:
    from shimmy.models.facts import inspect

    return Draft(inspect(paths).facts, file_bytes(paths))


def _tensors(paths: Sequence[str]) -> "list[Tensor]":
    from shimmy.models.gguf import read_header

    try:
        return [tensor for path in paths for tensor in read_header(path).tensors]
    except ModelInvalid:
        return []


def _blocks(tensors: "Sequence[Tensor]") -> Mapping[int, int]:
    sizes: Counter[int] = Counter()
    for tensor in tensors:
        if match := _BLOCK.match(tensor.name):
            sizes[int(match[1])] += tensor.size_bytes
    return sizes


def _moved(tensors: "Sequence[Tensor]", settings: "EngineSettings") -> Mapping[tuple[int, str], int]:
    """See `Details`. The first rule that matches a tensor's name holds, and those of experts come last."""
    rules = list(_rules(settings))
    num_blocks = 1 + max((int(match[1]) for tensor in tensors if (match := _BLOCK.match(tensor.name))), default=-1)
    has_output = any(tensor.name.startswith("output.") for tensor in tensors)
    moved: Counter[tuple[int, str]] = Counter()
    for tensor in tensors:
        place = next((place for pattern, place in rules if pattern.search(tensor.name)), None)
        for layer in _layers(tensor.name, num_blocks, has_output=has_output):
            if place is None and "exps." in tensor.name and (settings.cpu_moe or layer < (settings.n_cpu_moe or 0)):
                place = Details.CPU
            if place is not None:
                moved[layer, place] += tensor.size_bytes
    return moved


def _rules(settings: "EngineSettings") -> "Iterator[tuple[re.Pattern[str], str]]":
    """Patterns, and the devices that buffers are named after: "RPC0[host:port]" is one of RPC0. What is no pattern in
    Python, though it may be one in C++, moves nothing, and neither does what may take long."""
    for rule in settings.override_tensor:
        pattern, _, buffer = rule.rpartition("=")
        if not _is_quick(pattern):
            continue
        try:
            yield re.compile(pattern), buffer.partition("[")[0]
        except (re.error, OverflowError):
            continue


def _is_quick(pattern: str) -> bool:
    """Whether that is plain to see: few ways to match, and no group again and again."""
    plain = _LITERAL.sub("x", pattern)
    num_repeats = sum(map(plain.count, "*+?{")) - plain.count("(?")
    return num_repeats <= _MAX_REPEATS and plain.count("(") <= _MAX_GROUPS and not _REPEATED_GROUP.search(plain)


def _layers(name: str, num_blocks: int, *, has_output: bool) -> list[int]:
    """Where a tensor belongs: what makes vectors of tokens before the first layer, all others after the last one. Where
    they are the same numbers, in both places."""
    from shimmy.models.facts import INPUTS

    if match := _BLOCK.match(name):
        return [int(match[1])]
    if not name.startswith(INPUTS):
        return [num_blocks]
    return [-1, num_blocks] if name.startswith("token_embd.") and not has_output else [-1]
