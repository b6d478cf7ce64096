"""What clients send, field by field. Null means absent.

The names are OpenAI's, and where they have none llama.cpp's and vLLM's.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from shimmy.core.raw_json import absent
from shimmy.core.request import (
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_TOOLS,
    Adapters,
    BadWords,
    Bias,
    Breakers,
    DraftTokens,
    DryBase,
    DryLength,
    DryMultiplier,
    Exponent,
    LearningRate,
    MinTokens,
    Mirostat,
    ModelName,
    NumChoices,
    NumKept,
    NumLogprobs,
    Patience,
    Penalty,
    Priority,
    Probability,
    RepetitionPenalty,
    Seed,
    Sigmas,
    SpeculativeType,
    StopString,
    StopStrings,
    Surprise,
    Temperature,
    TemperatureRange,
    ThinkingBudget,
    TokenId,
    TokenIds,
    ToolName,
    TopK,
    Window,
)

# -1 is no limit but the context's.
TokenLimit = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
EncryptionKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
Biases = Annotated[dict[TokenId, Bias], Meta(max_length=4096)]
Samplers = Annotated[list[str], Meta(max_length=32)]
Choices = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=1024)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class NamedSchema(msgspec.Struct, frozen=True):
    """`name` and `strict` change nothing: every schema is enforced."""

    schema: msgspec.Raw
    name: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """OpenAI's; a `schema` beside "json_object" is llama-server's."""

    type: str
    json_schema: NamedSchema | None = None
    schema: msgspec.Raw = field(default_factory=absent)


class StructuredOutputs(msgspec.Struct, frozen=True):
    """vLLM's."""

    json: msgspec.Raw = field(default_factory=absent)
    json_object: bool | None = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    structural_tag: Any = None


class CommonFields(msgspec.Struct, frozen=True, kw_only=True):
    """What a chat and a plain completion share.

    `priority` is vLLM's: the lowest goes first. `timeout` and `queue_timeout` are in seconds. `encryption_key`, in
    base64, is Spindll's. `truncate_prompt_tokens` and `truncation_side` are vLLM's. `lora`, `n_predict` and the names
    with a dot are llama-server's.
    """

    model: ModelName
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenLimit | None = None
    n_predict: TokenLimit | None = None
    n: NumChoices | None = None
    stop: StopString | StopStrings | None = None
    temperature: Temperature | None = None
    dynatemp_range: TemperatureRange | None = None
    dynatemp_exponent: Exponent | None = None
    top_p: Probability | None = None
    top_k: TopK | None = None
    min_p: Probability | None = None
    typical_p: Probability | None = None
    top_n_sigma: Sigmas | None = None
    xtc_probability: Probability | None = None
    xtc_threshold: Probability | None = None
    mirostat: Mirostat | None = None
    mirostat_tau: Surprise | None = None
    mirostat_eta: LearningRate | None = None
    samplers: Samplers | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    repeat_penalty: RepetitionPenalty | None = None
    repeat_last_n: Window | None = None
    dry_multiplier: DryMultiplier | None = None
    dry_base: DryBase | None = None
    dry_allowed_length: DryLength | None = None
    dry_penalty_last_n: Window | None = None
    dry_sequence_breakers: Breakers | None = None
    logit_bias: Biases | None = None
    ignore_eos: bool | None = None
    min_tokens: MinTokens | None = None
    stop_token_ids: TokenIds | None = None
    bad_words: BadWords | None = None
    seed: Seed | None = None
    priority: Priority | None = None
    timeout: Patience | None = None
    queue_timeout: Patience | None = None
    encryption_key: EncryptionKey | None = None
    lora: Adapters | None = None
    truncate_prompt_tokens: NumKept | None = None
    truncation_side: Literal["left", "right"] | None = None
    speculative_type: SpeculativeType | None = field(name="speculative.type", default=None)
    speculative_n_max: DraftTokens | None = field(name="speculative.n_max", default=None)
    response_format: ResponseFormat | None = None
    json_schema: msgspec.Raw = field(default_factory=absent)
    grammar: str | None = None
    regex: str | None = None
    choice: Choices | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: msgspec.Raw = field(default_factory=absent)
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None


class Part(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None


Parts = Annotated[list[Part], Meta(max_length=MAX_PARTS)]


class Prediction(msgspec.Struct, frozen=True):
    """OpenAI's predicted output."""

    type: Literal["content"]
    content: str | Parts


class Function(msgspec.Struct, frozen=True):
    name: ToolName
    description: str | None = None
    parameters: msgspec.Raw = field(default_factory=absent)
    strict: bool | None = None


class ToolField(msgspec.Struct, frozen=True):
    type: str
    function: Function | None = None


class FunctionName(msgspec.Struct, frozen=True):
    name: str


class AllowedTool(msgspec.Struct, frozen=True):
    type: str
    function: FunctionName | None = None


class AllowedTools(msgspec.Struct, frozen=True):
    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedTool], Meta(max_length=MAX_TOOLS)]


class NamedTool(msgspec.Struct, frozen=True):
    """One that must be called, or, with the type "allowed_tools", those of which some may or must be."""

    type: str
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None


class CalledFunction(msgspec.Struct, frozen=True):
    """`arguments` are JSON in a string; some clients send the object itself."""

    name: str
    arguments: str | dict[str, Any] | None = None


class CallField(msgspec.Struct, frozen=True):
    function: CalledFunction
    id: str | None = None
    type: str | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """`reasoning_content` is DeepSeek's and llama-server's, `reasoning` vLLM's and OpenRouter's."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Parts | None = None
    name: str | None = None
    tool_calls: Annotated[list[CallField], Meta(max_length=MAX_TOOLS)] | None = None
    tool_call_id: str | None = None
    function_call: CalledFunction | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class ReasoningField(msgspec.Struct, frozen=True):
    """OpenAI's in the Responses API, and OpenRouter's."""

    effort: Effort | None = None
    max_tokens: ThinkingBudget | None = None
    enabled: bool | None = None
    exclude: bool | None = None


class ThinkingField(msgspec.Struct, frozen=True):
    """Anthropic's, which DeepSeek and Z.ai take here."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: ThinkingBudget | None = None


class ChatRequest(CommonFields, frozen=True, kw_only=True):
    """`functions` and `function_call` are what OpenAI had before `tools`. Of the budgets the first is llama-server's,
    the second vLLM's, the third DashScope's."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: TokenLimit | None = None
    tools: Annotated[list[ToolField], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[Function], Meta(max_length=MAX_TOOLS)] | None = None
    function_call: str | FunctionName | None = None
    reasoning_effort: Effort | None = None
    reasoning: ReasoningField | None = None
    thinking: ThinkingField | None = None
    enable_thinking: bool | None = None
    thinking_budget_tokens: ThinkingBudget | None = None
    thinking_token_budget: ThinkingBudget | None = None
    thinking_budget: ThinkingBudget | None = None
    reasoning_format: Literal["none", "auto", "deepseek", "deepseek-legacy"] | None = None
    include_reasoning: bool | None = None
    logprobs: bool | None = None
    top_logprobs: NumLogprobs | None = None
    modalities: Any = None
    chat_template: Any = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    prediction: Prediction | None = None
    truncation: Literal["auto", "disabled"] | None = None

    @property
    def tells_tokens(self) -> bool:
        """Whether the tokens of the answer were asked for."""
        return bool(self.logprobs)


class CompletionRequest(CommonFields, frozen=True, kw_only=True):
    prompt: str | list[str | TokenId | list[TokenId]]
    logprobs: NumLogprobs | bool | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: NumChoices | None = None

    @property
    def tells_tokens(self) -> bool:
        """Whether the tokens of the answer were asked for."""
        # 0 is a "yes": nothing but the tokens themselves.
        return self.logprobs is not None and self.logprobs is not False
