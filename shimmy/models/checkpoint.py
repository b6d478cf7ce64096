"""A model as Hugging Face's libraries write one: a folder of config.json, the tokenizer's files and *.safetensors.

Knows which of the files are the model, and reads the small ones; what llama.cpp makes of them, shimmy/convert knows.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from shimmy.core.errors import ModelInvalid
from shimmy.models.gguf.files import regular_file
from shimmy.models.names import shards_of
from shimmy.models.safetensors import Tensor, read_tensors

MAX_CONFIG_BYTES = 4 << 20
# Of all shards; the largest real ones, of mixtures of experts, have a third of that.
MAX_TENSORS = 1 << 18
CONFIG = "config.json"
WEIGHTS = ".safetensors"
# Python unpickles what is in these, and a pickle can run any code.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
PICKLED = "its weights are pickled, and reading a pickle can run code that is in it: save it as .safetensors"
_PICKLED_WEIGHTS = ("pytorch_model", "model", "consolidated")
POOLING = "1_Pooling/config.json"
# What else of the folder decides what the model says. The last one is of sentence-transformers, in a folder of its own.
_BESIDE = (
    *("generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json"),
    *("special_tokens_map.json", "chat_template.jinja", "chat_template.json", "model.safetensors.index.json"),
    *("modules.json", POOLING),
)

# The classes that transformers has for them, and what llama.cpp calls their kind.
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3",
    "Phi3ForCausalLM": "phi3",
    "LlamaModel": "llama",
    "Qwen2Model": "qwen2",
    "Qwen3Model": "qwen3",
    "BertModel": "bert",
    "BertForMaskedLM": "bert",
}


class Checkpoint:
    """The files of one model, by their names within its folder. Small ones are read when they are asked for."""

    def __init__(self, paths: Sequence[str]) -> None:
        """`paths` as `files_of` gives them."""
        self.folder = os.path.dirname(paths[0])
        self.shards = [path for path in paths if path.endswith(WEIGHTS)]
        self._paths = {os.path.relpath(path, self.folder).replace(os.sep, "/"): path for path in paths}
        self._read: dict[str, dict[str, Any]] = {}
        self._tensors: list[tuple[str, Tensor]] | None = None

    def path(self, name: str) -> str | None:
        return self._paths.get(name)

    def json(self, name: str, limit: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
        """An object in JSON; empty when there is no such file. Raises `ModelInvalid`."""
        if name not in self._read:
            path = self.path(name)
            self._read[name] = {} if path is None else _object(name, read_small(path, limit))
        return self._read[name]

    def text(self, name: str) -> str | None:
        """Raises `ModelInvalid`."""
        path = self.path(name)
        return None if path is None else read_small(path, MAX_CONFIG_BYTES).decode("utf-8", "replace")

    @property
    def class_name(self) -> str | None:
        """What transformers would load it with; None in a folder that is not a model of theirs."""
        named = self.json(CONFIG).get("architectures")
        return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None

    @property
    def architecture(self) -> str:
        """As llama.cpp calls it. Raises `ModelInvalid` for one that cannot be converted."""
        name = self.class_name
        if name not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ModelInvalid(f"its architecture {name or 'is not stated and'!s:.80} cannot be converted; {known} can")
        return ARCHITECTURES[name]

    @property
    def config(self) -> "Config":
        """What describes the model that reads text. Raises `ModelInvalid`."""
        values = self.json(CONFIG)
        inner = values.get("text_config")
        return Config(values | inner if isinstance(inner, dict) else values)

    @property
    def pooling_mode(self) -> str | None:
        """How sentence-transformers makes one vector of those of the tokens: "mean", "cls", "last", or None."""
        said = self.json(POOLING)
        modes = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
        stated = next((mode for key, mode in modes.items() if said.get(f"pooling_mode_{key}") is True), None)
        # Newer versions say it in one word.
        return stated or {"mean": "mean", "cls": "cls", "lasttoken": "last"}.get(str(said.get("pooling_mode")))

    def templates(self) -> dict[str, str]:
        """The chat templates, wherever they are; the usual one is called "default". Raises `ModelInvalid`."""
        said: Any = self.json("tokenizer_config.json").get("chat_template")
        if said is None:
            said = self.text("chat_template.jinja") or self.json("chat_template.json").get("chat_template")
        if isinstance(said, str):
            return {"default": said}
        found: dict[str, str] = {}
        for each in said if isinstance(said, list) else []:
            match each:
                case {"name": str(name), "template": str(template)}:
                    found["".join(letter for letter in name.lower() if letter.isalnum() or letter == "_")] = template
        return found

    def tensors(self) -> list[tuple[str, Tensor]]:
        """Each with the path of its shard. Raises `ModelInvalid`."""
        if self._tensors is None:
            self._tensors = self._read_tensors()
        return self._tensors

    def _read_tensors(self) -> list[tuple[str, Tensor]]:
        found: dict[str, tuple[str, Tensor]] = {}
        for path in self.shards:
            try:
                tensors = read_tensors(path)
            except ModelInvalid as error:
                raise ModelInvalid(f"{os.path.basename(path)}: {error.message}") from error.__cause__
            if not tensors:
                raise ModelInvalid(f"{os.path.basename(path)}: there are no tensors in it")
            if len(found) + len(tensors) > MAX_TENSORS:
                raise ModelInvalid(f"it has more than {MAX_TENSORS} tensors")
            for tensor in tensors:
                if tensor.name in found:
                    raise ModelInvalid(f"two shards have a tensor {tensor.name}")
                found[tensor.name] = path, tensor
        self._check_index(found)
        return list(found.values())

    def _check_index(self, found: dict[str, tuple[str, Tensor]]) -> None:
        listed = self.json("model.safetensors.index.json", limit=16 << 20).get("weight_map")
        missing = [name for name in listed if name not in found] if isinstance(listed, dict) else []
        if missing:
            raise ModelInvalid(f"{len(missing)} tensors of its index are in none of its shards, {missing[0]:.80} first")


class Config:
    """Numbers of a configuration, each within a range that no sane model leaves. Everything raises `ModelInvalid`."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def size(self, name: str, default: int | None = None) -> int:
        """An integer from 1 to 2**31 - 1."""
        value = self.values.get(name)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value < 1 << 31:
            raise ModelInvalid(f"config.json: {name} is {value!r:.80}, it has to be a number from 1 to 2147483647")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite one."""
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= 1e30:
            raise ModelInvalid(f"config.json: {name} is {value!r:.80}, it has to be a number")
        return float(value)

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None


def files_of(folder: str, names: Iterable[str]) -> tuple[tuple[str, ...], str | None] | None:
    """The paths of the model in `folder`, weights first, whose files are called `names`; and why it cannot be served,
    if names tell. Of one whose weights are pickled, only the configuration. None for a folder that holds none."""
    present = set(names)
    if CONFIG not in present:
        return None
    weights = sorted(name for name in present if name.startswith("model") and name.endswith(WEIGHTS))
    if weights:
        shards = shards_of(os.path.join(folder, weights[0])) or [os.path.join(folder, name) for name in weights]
        missing = [shard for shard in shards if not os.path.isfile(shard)]
        beside = [os.path.join(folder, name) for name in (CONFIG, *_BESIDE) if name in present]
        if "modules.json" in present and os.path.isfile(pooling := os.path.join(folder, *POOLING.split("/"))):
            beside.append(pooling)
        paths = tuple([shard for shard in shards if shard not in missing] + beside)
        return paths, _lacks(missing, len(shards))
    if any(name.startswith(_PICKLED_WEIGHTS) and name.endswith(PICKLES) for name in present):
        return (os.path.join(folder, CONFIG),), None
    return None


def may_be_part(name: str) -> bool:
    """Whether a file that is called so can belong to a checkpoint."""
    return name.endswith((WEIGHTS, *PICKLES)) or name in (CONFIG, *_BESIDE)


def means(path: str, paths: Sequence[str]) -> bool:
    """Whether somebody who names the file or folder `path` means the model in `paths`."""
    return path in paths or (paths[:1] != () and paths[0].endswith(WEIGHTS) and path == os.path.dirname(paths[0]))


def _lacks(missing: list[str], num_shards: int) -> str | None:
    if not missing:
        return None
    return f"{len(missing)} of {num_shards} shards are missing, the first is {os.path.basename(missing[0])}"


def read_small(path: str, limit: int) -> bytes:
    """A whole file of at most `limit` bytes. Raises `ModelInvalid`, named after the file."""
    name = os.path.basename(path)
    try:
        with regular_file(path) as (file, file_bytes):
            data = file.read(limit + 1) if file_bytes <= limit else b""
    except ModelInvalid as error:
        raise ModelInvalid(f"{name}: {error.message}") from error.__cause__
    if file_bytes > limit or len(data) > limit:
        raise ModelInvalid(f"{name} is longer than {limit} bytes")
    return data


def _object(name: str, data: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise ModelInvalid(f"{name} is no JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise ModelInvalid(f"{name} is no JSON object")
    return value
