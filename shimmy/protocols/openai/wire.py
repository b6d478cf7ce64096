"""What clients send, field by field. Unknown fields are accepted and ignored; null means absent.

The names are OpenAI's, and where they have none llama.cpp's and vLLM's.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from shimmy.core.request import (
    MAX_STOP_STRINGS,
    Bias,
    DraftTokens,
    MaxTokens,
    NumChoices,
    Patience,
    Penalty,
    Priority,
    Probability,
    RepetitionPenalty,
    Seed,
    SpeculativeType,
    Temperature,
    TokenId,
    TopK,
)

ModelName = Annotated[str, Meta(max_length=1024)]
StopString = Annotated[str, Meta(max_length=1024)]
Stops = Annotated[list[StopString], Meta(max_length=MAX_STOP_STRINGS)]
Biases = Annotated[dict[TokenId, Bias], Meta(max_length=4096)]


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class CommonFields(msgspec.Struct, frozen=True, kw_only=True):
    """What a chat and a plain completion share.

    `priority` is vLLM's: the lowest goes first. `timeout` and `queue_timeout` are in seconds. The names with a dot are
    llama-server's.
    """

    model: ModelName
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens | None = None
    n: NumChoices | None = None
    stop: StopString | Stops | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: TopK | None = None
    min_p: Probability | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    repeat_penalty: RepetitionPenalty | None = None
    logit_bias: Biases | None = None
    seed: Seed | None = None
    logprobs: Any = None
    priority: Priority | None = None
    timeout: Patience | None = None
    queue_timeout: Patience | None = None
    speculative_type: SpeculativeType | None = field(name="speculative.type", default=None)
    speculative_n_max: DraftTokens | None = field(name="speculative.n_max", default=None)


class Part(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None


class Prediction(msgspec.Struct, frozen=True):
    """OpenAI's predicted output."""

    type: Literal["content"]
    content: str | list[Part]


class ChatMessage(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: Any = None
    function_call: Any = None


class ChatRequest(CommonFields, frozen=True, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: MaxTokens | None = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    top_logprobs: Any = None
    modalities: Any = None
    prediction: Prediction | None = None


class CompletionRequest(CommonFields, frozen=True, kw_only=True):
    prompt: str | list[str | TokenId | list[TokenId]]
    echo: Any = None
    suffix: Any = None
    best_of: NumChoices | None = None
