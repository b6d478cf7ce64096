"""What clients send, field by field. Null means absent; `cache_control` is everywhere and asks for what is always done.

The names are Anthropic's, and for what it does not have the same as over the OpenAI API.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shimmy.core.raw_json import absent
from shimmy.core.request import (
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_TOOLS,
    Adapters,
    MaxTokens,
    ModelName,
    Patience,
    Penalty,
    Priority,
    Probability,
    RepetitionPenalty,
    Seed,
    StopStrings,
    ToolName,
    TopK,
)

Temperature = Annotated[float, Meta(ge=0, le=1)]
ThinkingBudget = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Effort = Literal["low", "medium", "high", "xhigh", "max"]


class Block(msgspec.Struct, frozen=True):
    """A content block of any type, with the fields that the types we take have. `content` is a tool's result; `source`
    is that of images and documents, whose type is refused. What is from `signature` on comes back with what was
    answered, and says nothing to a model."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None
    thinking: str | None = None
    source: Any = None
    cache_control: Any = None
    signature: Any = None
    data: Any = None
    citations: Any = None
    caller: Any = None


Blocks = Annotated[list[Block], Meta(max_length=MAX_PARTS)]


class MessageField(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant", "system"]
    content: str | Blocks


class ToolField(msgspec.Struct, frozen=True):
    """Without a `type`, or with "custom", a tool of the client's own; all others are Anthropic's."""

    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = msgspec.field(default_factory=absent)
    strict: bool | None = None
    cache_control: Any = None


class ToolChoiceField(msgspec.Struct, frozen=True):
    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingField(msgspec.Struct, frozen=True):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: ThinkingBudget | None = None
    display: Literal["summarized", "omitted"] | None = None


class FormatField(msgspec.Struct, frozen=True):
    type: Literal["json_schema"]
    schema: msgspec.Raw


class OutputConfig(msgspec.Struct, frozen=True):
    effort: Effort | None = None
    format: FormatField | None = None


class Metadata(msgspec.Struct, frozen=True):
    user_id: str | None = None


class CountRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a prompt."""

    model: ModelName
    messages: Annotated[list[MessageField], Meta(min_length=1, max_length=MAX_MESSAGES)]
    system: str | Blocks | None = None
    tools: Annotated[list[ToolField], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoiceField | None = None
    thinking: ThinkingField | None = None
    output_config: OutputConfig | None = None
    output_format: FormatField | None = None
    cache_control: Any = None
    mcp_servers: Any = None
    container: Any = None


class MessagesRequest(CountRequest, frozen=True, kw_only=True):
    """`output_format` was the name of `output_config.format` in a beta. From `min_p` on the fields are ours."""

    max_tokens: MaxTokens
    stream: bool | None = None
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: Probability | None = None
    stop_sequences: StopStrings | None = None
    metadata: Metadata | None = None
    service_tier: Any = None
    min_p: Probability | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    seed: Seed | None = None
    priority: Priority | None = None
    timeout: Patience | None = None
    queue_timeout: Patience | None = None
    lora: Adapters | None = None
