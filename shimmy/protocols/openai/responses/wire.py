"""What clients send to /v1/responses, field by field. Null means absent; what is not here is as in completions."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from shimmy.core.raw_json import absent
from shimmy.core.request import MAX_MESSAGES, MAX_PARTS, MAX_TOOLS, MaxTokens, NumLogprobs, ToolName
from shimmy.protocols.openai.wire import CommonFields, ReasoningField

Summary = Literal["auto", "concise", "detailed"]


class Part(msgspec.Struct, frozen=True):
    """Of a message, a function's output or thoughts. The last two fields are in what clients send back."""

    type: str
    text: str | None = None
    refusal: str | None = None
    annotations: Any = None
    logprobs: Any = None


Parts = Annotated[list[Part], Meta(max_length=MAX_PARTS)]


class Item(msgspec.Struct, frozen=True):
    """A message, unless `type` says otherwise. `status`, `phase` and ids of items come back with what was answered, and
    say nothing to a model."""

    type: str = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | Parts | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    output: str | Parts | None = None
    summary: Parts | None = None
    encrypted_content: str | None = None
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class FunctionTool(msgspec.Struct, frozen=True):
    type: str
    name: ToolName | None = None
    description: str | None = None
    parameters: msgspec.Raw = field(default_factory=absent)
    strict: bool | None = None


class ToolField(FunctionTool, frozen=True):
    """`tools` are those of a namespace."""

    tools: Annotated[list[FunctionTool], Meta(max_length=MAX_TOOLS)] | None = None


class AllowedTool(msgspec.Struct, frozen=True):
    type: str
    name: str | None = None


class NamedTool(msgspec.Struct, frozen=True):
    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: Annotated[list[AllowedTool], Meta(min_length=1, max_length=MAX_TOOLS)] | None = None


class TextFormat(msgspec.Struct, frozen=True):
    """`name`, `description` and `strict` change nothing: every schema is enforced."""

    type: str
    name: str | None = None
    description: str | None = None
    schema: msgspec.Raw = field(default_factory=absent)
    strict: bool | None = None


class TextField(msgspec.Struct, frozen=True):
    format: TextFormat | None = None


class ReasoningOptions(ReasoningField, frozen=True):
    """`generate_summary` is the older name of `summary`. `max_tokens`, `enabled` and `exclude` are as in chats."""

    summary: Summary | None = None
    generate_summary: Summary | None = None


class ResponsesRequest(CommonFields, frozen=True, kw_only=True):
    input: str | Annotated[list[Item], Meta(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: MaxTokens | None = None
    tools: Annotated[list[ToolField], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextField | None = None
    reasoning: ReasoningOptions | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    top_logprobs: NumLogprobs | None = None
    include: Annotated[list[str], Meta(max_length=16)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    context_management: Any = None

    @property
    def tells_tokens(self) -> bool:
        """Whether the tokens of the answer were asked for."""
        return "message.output_text.logprobs" in (self.include or []) or bool(self.top_logprobs)
