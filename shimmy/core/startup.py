"""What a worker is told and says before it has a model, apart from all others (ipc.py): each type that is defined costs
the start of every worker some of its milliseconds.
"""

from typing import Literal

import msgspec

from shimmy.core.errors import Fault
from shimmy.core.secret import Secret

# How a worker begins those lines on its stderr that belong into the server's log.
WARNING_MARK = "[warning] "
# How long a worker goes on at its end to store what still waits for its disk.
STORE_SECONDS = 2.0

SpeculativeType = Literal["none", "ngram", "draft"]


class DiskCache(msgspec.Struct, frozen=True):
    """Where a worker stores what it computed of prompts: at most `limit_bytes`, for all models together, in `folder`
    (a path in the bytes of the file system), sealed with `key` (32 bytes) if there is one."""

    folder: bytes
    limit_bytes: int
    key: Secret | None = None


class Adapter(msgspec.Struct, frozen=True):
    """A LoRA adapter as requests name it, its file, and how strong it is unless a request says otherwise."""

    name: str
    path: str
    scale: float = 1.0


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker sets up its context; None leaves the choice to the worker.

    `context_length` in tokens (default: the model's own, within the memory there is), `num_sequences` that decode side
    by side, `num_threads` at most, `prefix_ram_bytes` for states of prefixes that left the KV cache, `disk_cache` for
    those that outlive the worker. `draft_paths` is a draft model's file, or its shards in order; `speculative` is how
    tokens are guessed for requests that do not say. `adapters` are for the model itself. `settings` is an
    `EngineSettings` in msgpack: empty where nothing of it is set, so that most workers need not know what it is.
    """

    context_length: int | None = None
    num_sequences: int = 8
    num_threads: int | None = None
    prefix_ram_bytes: int = 256 << 20
    disk_cache: DiskCache | None = None
    draft_paths: tuple[str, ...] = ()
    speculative: SpeculativeType = "none"
    adapters: tuple[Adapter, ...] = ()
    settings: bytes = b""


# Server to worker: one of these is the first message


class Load(msgspec.Struct, frozen=True, tag="load"):
    """First message to a worker that serves: the model's file, or all its shards in order, or those of a checkpoint."""

    paths: list[str]
    options: EngineOptions = EngineOptions()


class ListDevices(msgspec.Struct, frozen=True, tag="list_devices"):
    """Ask a worker that holds no model for the devices llama.cpp sees; `unusable` has the paths of libraries that must
    not be opened, with the reasons, and `only` is the one backend to open beside the CPU's."""

    unusable: dict[str, str] = {}
    only: str | None = None


class Quantize(msgspec.Struct, frozen=True, tag="quantize"):
    """Ask a worker that holds no model to write the model in `source`, which may be the first of several shards, as
    `target`, one file that appears whole. `file_type` is llama.h's llama_ftype.

    `partial` is what the unfinished file is called where it must have a name; whoever asks removes it should the worker
    die. `replace` lets it take the place of a file, `allow_requantize` lets tensors lose precision a second time.
    """

    source: str
    target: str
    partial: str
    file_type: int
    num_threads: int | None = None
    replace: bool = False
    allow_requantize: bool = False


class Convert(msgspec.Struct, frozen=True, tag="convert"):
    """Ask a worker that holds no model to write the checkpoint in the files `source` (models/checkpoint.py) as
    `target`, called `name` in its header. `partial` and `replace` as in `Quantize`."""

    source: list[str]
    target: str
    partial: str
    name: str
    replace: bool = False


FirstMessage = Load | ListDevices | Quantize | Convert

# Worker to server


class LoadProgress(msgspec.Struct, frozen=True, tag="load_progress"):
    """Fraction of the model read, 0 to 1."""

    fraction: float


class Opening(msgspec.Struct, frozen=True, tag="opening"):
    """An optional backend is about to be opened: should the worker end now, it was this file."""

    path: str


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The model is ready. Lengths in tokens, sizes in bytes; `template_source` is "gguf" or "chatml", or empty for a
    model that generates no text; `layers` is how many of the model's layers each device has, the output layer included,
    and `buffers` how many bytes of its weights each kind of memory; `gpus` has all bytes that were taken of each GPU,
    by llama.cpp's account; `adapters` has the scales that hold for requests that do not say, in order."""

    context_length: int
    training_context_length: int
    num_sequences: int
    num_threads: int
    num_parameters: int
    model_bytes: int
    vocabulary_size: int
    template_source: str
    cpu_variant: str
    load_seconds: float
    layers: dict[str, int] = {}
    buffers: dict[str, int] = {}
    gpus: dict[str, int] = {}
    adapters: dict[str, float] = {}


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    fault: Fault
