"""What Ollama's clients send, field by field. Null means absent."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shimmy.core.modelfile import MAX_LAYERS, MAX_TURNS, Turn
from shimmy.core.raw_json import absent
from shimmy.core.request import (
    MAX_MESSAGES,
    MAX_TOOLS,
    Dimensions,
    LearningRate,
    Mirostat,
    ModelName,
    NumLogprobs,
    Penalty,
    Probability,
    RepetitionPenalty,
    Seed,
    StopString,
    StopStrings,
    Surprise,
    Temperature,
    ToolName,
    TopK,
    Window,
)

# Of one model, in shards.
MAX_FILES = 1024

Think = bool | Literal["low", "medium", "high", "max"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Those that choose tokens. What else Ollama has here is about loading, which happens once: docs/ollama.md."""

    num_ctx: int | None = None
    num_predict: int | None = None
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: Probability | None = None
    min_p: Probability | None = None
    typical_p: Probability | None = None
    repeat_penalty: RepetitionPenalty | None = None
    repeat_last_n: Window | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    mirostat: Mirostat | None = None
    mirostat_tau: Surprise | None = None
    mirostat_eta: LearningRate | None = None
    seed: Seed | None = None
    stop: StopString | StopStrings | None = None


class CommonFields(msgspec.Struct, frozen=True, kw_only=True):
    """What all that generate text have."""

    model: ModelName
    stream: bool | None = None
    format: msgspec.Raw = msgspec.field(default_factory=absent)
    keep_alive: str | float | None = None
    options: Options | None = None
    think: Think | None = None
    logprobs: bool | None = None
    top_logprobs: NumLogprobs | None = None


class GenerateRequest(CommonFields, frozen=True, kw_only=True):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    raw: bool | None = None
    context: list[int] | None = None
    images: list[Any] | None = None


class CalledFunction(msgspec.Struct, frozen=True):
    """`arguments` is an object; some clients send its JSON text."""

    name: str
    arguments: dict[str, Any] | str | None = None


class Call(msgspec.Struct, frozen=True):
    function: CalledFunction
    id: str | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: Annotated[list[Call], Meta(max_length=MAX_TOOLS)] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Function(msgspec.Struct, frozen=True):
    name: ToolName
    description: str | None = None
    parameters: msgspec.Raw = msgspec.field(default_factory=absent)


class ToolField(msgspec.Struct, frozen=True):
    function: Function
    type: str | None = None


class ChatRequest(CommonFields, frozen=True, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(max_length=MAX_MESSAGES)] | None = None
    tools: Annotated[list[ToolField], Meta(max_length=MAX_TOOLS)] | None = None


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: ModelName
    input: str | list[str]
    truncate: bool | None = None
    dimensions: Dimensions | None = None
    keep_alive: str | float | None = None


class EmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Of before there was /api/embed."""

    model: ModelName
    prompt: str | None = None
    keep_alive: str | float | None = None


class ShowRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is what older clients call the model."""

    model: ModelName | None = None
    name: ModelName | None = None


class PullRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`revision` is ours: a branch, tag or commit of a repository of Hugging Face."""

    model: ModelName | None = None
    name: ModelName | None = None
    stream: bool | None = None
    insecure: bool | None = None
    revision: ModelName | None = None


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`files` and `adapters` are digests by the names of files; `quantization` is how older clients say
    `quantize`."""

    model: ModelName | None = None
    name: ModelName | None = None
    source: ModelName | None = msgspec.field(name="from", default=None)
    files: Annotated[dict[str, str], Meta(max_length=MAX_FILES)] | None = None
    adapters: Annotated[dict[str, str], Meta(max_length=MAX_LAYERS)] | None = None
    template: str | None = None
    license: str | Annotated[list[str], Meta(max_length=MAX_LAYERS)] | None = None
    system: str | None = None
    parameters: dict[str, Any] | None = None
    messages: Annotated[list[Turn], Meta(max_length=MAX_TURNS)] | None = None
    stream: bool | None = None
    quantize: str | None = None
    quantization: str | None = None
    modelfile: str | None = None


class CopyRequest(msgspec.Struct, frozen=True, kw_only=True):
    source: ModelName
    destination: ModelName


class DeleteRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: ModelName | None = None
    name: ModelName | None = None
