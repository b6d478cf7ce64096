"""The messages between the server and a worker, over the worker's stdin and stdout.

All events of one decode step travel in one frame. Both sides treat a frame they cannot decode as the death of the
other. Those that a worker needs before it has a model are in startup.py, the frames in frames.py.
"""

from typing import Any

import msgspec

from shimmy.core.errors import Fault
from shimmy.core.events import Event
from shimmy.core.frames import MAX_FRAME_BYTES as MAX_FRAME_BYTES
from shimmy.core.frames import FrameError as FrameError
from shimmy.core.frames import FrameReader as FrameReader
from shimmy.core.frames import encode as encode
from shimmy.core.request import Chat, Embedding, Generation, Prompt, TokenId
from shimmy.core.startup import STORE_SECONDS as STORE_SECONDS
from shimmy.core.startup import WARNING_MARK as WARNING_MARK
from shimmy.core.startup import Adapter as Adapter
from shimmy.core.startup import Convert as Convert
from shimmy.core.startup import DiskCache as DiskCache
from shimmy.core.startup import EngineOptions as EngineOptions
from shimmy.core.startup import ListDevices as ListDevices
from shimmy.core.startup import Load as Load
from shimmy.core.startup import Loaded as Loaded
from shimmy.core.startup import LoadFailed as LoadFailed
from shimmy.core.startup import LoadProgress as LoadProgress
from shimmy.core.startup import Opening as Opening
from shimmy.core.startup import Quantize as Quantize

# Server to worker


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


class Explain(msgspec.Struct, frozen=True, tag="explain"):
    """What would be computed for a request, without computing it."""

    generation: Generation


Question = Tokenize | CountTokens | Detokenize | Render | Explain


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Ask a worker with a model something that needs no context: it answers while others decode."""

    id: int
    question: Question


ToWorker = Load | Generate | Embed | Abort | Pause | Resume | ListDevices | Quantize | Convert | Ask

# Worker to server


class Events(msgspec.Struct, frozen=True, tag="events"):
    """Everything one decode step has to say."""

    events: list[Event]


class Device(msgspec.Struct, frozen=True):
    """A device as ggml enumerates it (ggml-backend.h, ggml_backend_dev_props); memory in bytes. `provider` is the
    optional backend that brings it, and `gpu_id` is the same for a GPU that several of them bring."""

    name: str
    description: str
    kind: str
    backend: str
    free_bytes: int
    total_bytes: int
    provider: str = ""
    gpu_id: str = ""


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


class Converted(msgspec.Struct, frozen=True, tag="converted"):
    """The file is in its place."""

    num_tensors: int
    target_bytes: int


class Tokenized(msgspec.Struct, frozen=True, tag="tokenized", omit_defaults=True):
    """`pieces` has the bytes of each token, if they were asked for."""

    tokens: list[int]
    pieces: list[bytes] = []


class Counted(msgspec.Struct, frozen=True, tag="counted"):
    num_tokens: int


class Written(msgspec.Struct, frozen=True, tag="written"):
    """Answer to `Detokenize` and `Render`, and to `Explain`: an `Explanation` in JSON."""

    text: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """`prompt` is as the template rendered it, `max_tokens` what there is room for, or less if that was asked for.
    `stop` has the template's stop strings, too, and `sampling` every field of a `Sampling`, with the model's own values
    where the request has none. `calls` says why calls are held to a form, by the name of the field."""

    prompt: str
    prompt_tokens: int
    context_length: int
    max_tokens: int
    template_source: str
    stop: list[str]
    stop_token_ids: list[int]
    constraint: dict[str, str] | None
    calls: str | None
    reasoning_budget: int | None
    sampling: dict[str, Any]


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    fault: Fault


class Answer(msgspec.Struct, frozen=True, tag="answer", omit_defaults=True):
    """To the `Ask` with this id. A long one comes in several frames, so that those of steps come between them: as long
    as there is `more`."""

    id: int
    answer: Tokenized | Counted | Written | Refused
    more: bool = False


FromWorker = (
    LoadProgress | Opening | Loaded | LoadFailed | Events | Devices | QuantizeProgress | Quantized | Converted | Answer
)
