"""The frames between the server and a worker, over the worker's stdin and stdout.

A frame is a 4-byte little-endian length and one msgpack message, a tagged Struct. All events of one decode step travel
in one frame. Both sides treat a frame they cannot decode as the death of the other.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from shimmy.core.errors import Fault
from shimmy.core.events import Event
from shimmy.core.request import Chat, Embedding, Generation, Prompt, Secret, SpeculativeType, TokenId

MAX_FRAME_BYTES = 64 << 20
_LENGTH_BYTES = 4
# How a worker begins those lines on its stderr that belong into the server's log.
WARNING_MARK = "[warning] "
# How long a worker goes on at its end to store what still waits for its disk.
STORE_SECONDS = 2.0


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


# Server to worker


class Load(msgspec.Struct, frozen=True, tag="load"):
    """First message to a worker that serves: the model's file, or all its shards in order."""

    paths: list[str]
    options: EngineOptions = EngineOptions()


class Generate(msgspec.Struct, frozen=True, tag="generate"):
    generation: Generation


class Embed(msgspec.Struct, frozen=True, tag="embed"):
    embedding: Embedding


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Stop a request; no event of it is sent after the next step. Unknown ids are ignored."""

    id: str


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """The request's reader is behind: decode nothing more for it until `Resume`."""

    id: str


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    id: str


class ListDevices(msgspec.Struct, frozen=True, tag="list_devices"):
    """Ask a worker that holds no model for the devices llama.cpp sees; `unusable` has the paths of libraries that must
    not be opened, with the reasons."""

    unusable: dict[str, str] = {}


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


class Tokenize(msgspec.Struct, frozen=True, tag="tokenize"):
    """The tokens of a prompt; of a `Text`, with what the model begins texts with only if `add_special`, and with
    special tokens where they are spelled only if `parse_special`. With `spelled` they come as text too."""

    prompt: Prompt
    add_special: bool = True
    parse_special: bool = True
    spelled: bool = False


class CountTokens(msgspec.Struct, frozen=True, tag="count_tokens"):
    """How many tokens a prompt has."""

    prompt: Prompt


class Detokenize(msgspec.Struct, frozen=True, tag="detokenize"):
    """The text of tokens, special ones as they are spelled."""

    tokens: list[TokenId]


class Render(msgspec.Struct, frozen=True, tag="render"):
    """What the model's template makes of a chat."""

    chat: Chat


Question = Tokenize | CountTokens | Detokenize | Render


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Ask a worker with a model something that needs no context: it answers while others decode."""

    id: int
    question: Question


ToWorker = Load | Generate | Embed | Abort | Pause | Resume | ListDevices | Quantize | Ask

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
    and `buffers` how many bytes of its weights each kind of memory; `adapters` has the scales that hold for requests
    that do not say, in order."""

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
    adapters: dict[str, float] = {}


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    fault: Fault


class Events(msgspec.Struct, frozen=True, tag="events"):
    """Everything one decode step has to say."""

    events: list[Event]


class Device(msgspec.Struct, frozen=True):
    """A device as ggml enumerates it (ggml-backend.h, ggml_backend_dev_props); memory in bytes."""

    name: str
    description: str
    kind: str
    backend: str
    free_bytes: int
    total_bytes: int


class AbsentBackend(msgspec.Struct, frozen=True):
    name: str
    reason: str


class LoadedBackend(msgspec.Struct, frozen=True):
    """An optional backend, and the file it was loaded from."""

    name: str
    path: str


class Devices(msgspec.Struct, frozen=True, tag="devices"):
    """Answer to `ListDevices`; `searched` has the folders in which optional backends are looked for."""

    devices: list[Device]
    absent: list[AbsentBackend]
    llama_version: str
    cpu_variant: str
    cpu_features: list[str]
    loaded: list[LoadedBackend] = []
    searched: list[str] = []


class QuantizeProgress(msgspec.Struct, frozen=True, tag="quantize_progress"):
    """How many of the tensors are written."""

    num_done: int
    num_tensors: int


class Quantized(msgspec.Struct, frozen=True, tag="quantized"):
    """The file is in its place. `num_fallbacks` tensors have shapes that the type cannot have, and got a larger one."""

    num_tensors: int
    num_fallbacks: int
    target_bytes: int


class Tokenized(msgspec.Struct, frozen=True, tag="tokenized", omit_defaults=True):
    """`pieces` has the bytes of each token, if they were asked for."""

    tokens: list[int]
    pieces: list[bytes] = []


class Counted(msgspec.Struct, frozen=True, tag="counted"):
    num_tokens: int


class Written(msgspec.Struct, frozen=True, tag="written"):
    """Answer to `Detokenize` and `Render`."""

    text: str


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    fault: Fault


class Answer(msgspec.Struct, frozen=True, tag="answer", omit_defaults=True):
    """To the `Ask` with this id. A long one comes in several frames, so that those of steps come between them: as long
    as there is `more`."""

    id: int
    answer: Tokenized | Counted | Written | Refused
    more: bool = False


FromWorker = LoadProgress | Opening | Loaded | LoadFailed | Events | Devices | QuantizeProgress | Quantized | Answer

_encoder = msgspec.msgpack.Encoder()


class FrameError(Exception):
    """The other side sent bytes that are not a frame."""


def encode(message: ToWorker | FromWorker) -> bytes:
    """One frame, length included."""
    frame = bytearray(_LENGTH_BYTES)
    _encoder.encode_into(message, frame, _LENGTH_BYTES)
    size = len(frame) - _LENGTH_BYTES
    if size > MAX_FRAME_BYTES:
        raise FrameError(f"frame of {size} bytes is over the limit of {MAX_FRAME_BYTES}")
    frame[:_LENGTH_BYTES] = size.to_bytes(_LENGTH_BYTES, "little")
    return bytes(frame)


class FrameReader:
    """Turns a byte stream, however it is split, back into messages."""

    def __init__(self, messages: Any) -> None:
        """`messages` is the union to decode: `ToWorker` in a worker, `FromWorker` in the server."""
        self._decoder = msgspec.msgpack.Decoder(messages)
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that `data` completes. Raises `FrameError` on anything malformed."""
        pending = self._pending
        pending += data
        start = 0
        try:
            while len(pending) - start >= _LENGTH_BYTES:
                body = start + _LENGTH_BYTES
                size = int.from_bytes(pending[start:body], "little")
                if size > MAX_FRAME_BYTES:
                    raise FrameError(f"frame of {size} bytes is over the limit of {MAX_FRAME_BYTES}")
                if len(pending) < body + size:
                    break
                frame = bytes(pending[body : body + size])
                start = body + size
                try:
                    message = self._decoder.decode(frame)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    raise FrameError(f"undecodable frame: {error}") from error
                yield message
        finally:
            del pending[:start]
