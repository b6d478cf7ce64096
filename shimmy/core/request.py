"""What a client asks of a model, free of any wire format.

Protocols decode their bytes into one `Generation`; the worker reads nothing else. The ranges live here, as annotated
types, so that every protocol checks the same ones while decoding (msgspec applies them on decode, not on construction).
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shimmy.core.events import DroppedPart
from shimmy.core.secret import Secret as Secret
from shimmy.core.startup import SpeculativeType as SpeculativeType

Temperature = Annotated[float, Meta(ge=0, le=100)]
Probability = Annotated[float, Meta(ge=0, le=1)]
TopK = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Meta(ge=0.01, le=10)]
# A number of tokens back from the newest; -1 is all that the context holds.
Window = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
Sigmas = Annotated[float, Meta(ge=-1, le=100)]
DryMultiplier = Annotated[float, Meta(ge=0, le=100)]
DryBase = Annotated[float, Meta(ge=1, le=100)]
DryLength = Annotated[int, Meta(ge=0, le=2**31 - 1)]
# llama.cpp cuts what is longer; what the worker tokenizes for them grows with their length.
Breaker = Annotated[str, Meta(min_length=1, max_length=40)]
Breakers = Annotated[list[Breaker], Meta(max_length=16)]
Mirostat = Annotated[int, Meta(ge=0, le=2)]
Surprise = Annotated[float, Meta(ge=0, le=100)]
LearningRate = Annotated[float, Meta(ge=0, le=10)]
TemperatureRange = Annotated[float, Meta(ge=0, le=100)]
Exponent = Annotated[float, Meta(ge=0, le=100)]
MinTokens = Annotated[int, Meta(ge=0, le=2**31 - 1)]
NumLogprobs = Annotated[int, Meta(ge=0, le=20)]
SamplerName = Literal["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
MaxTokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
# For those who want to know something of the prompt only.
MaxTokensOrNone = Annotated[int, Meta(ge=0, le=2**31 - 1)]
NumKept = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
NumChoices = Annotated[int, Meta(ge=1, le=128)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Priority = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Patience = Annotated[float, Meta(gt=0, le=86_400)]
# In the order of llama.h, llama_pooling_type.
Pooling = Literal["none", "mean", "cls", "last", "rank"]
Dimensions = Annotated[int, Meta(ge=1, le=2**31 - 1)]
# llama-server's embd_normalize: -1 not at all, 0 by the largest number, else by the p-norm.
Norm = Annotated[int, Meta(ge=-1, le=64)]
DraftTokens = Annotated[int, Meta(ge=0, le=64)]

# -1 is as many as there is room for.
ThinkingBudget = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
# OpenAI allows no dots and 64 characters; tools of MCP servers have both.
MAX_TOOL_NAME_CHARS = 128
ToolName = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9_.:-]{{1,{MAX_TOOL_NAME_CHARS}}}\Z")]

BadWord = Annotated[str, Meta(max_length=256)]
BadWords = Annotated[list[BadWord], Meta(max_length=128)]
TokenIds = Annotated[list[TokenId], Meta(max_length=256)]

AdapterScale = Annotated[float, Meta(ge=-100, le=100)]
AdapterNumber = Annotated[int, Meta(ge=0, le=2**31 - 1)]
AdapterName = Annotated[str, Meta(max_length=1024)]
ModelName = Annotated[str, Meta(max_length=1024)]

ToolMode = Literal["none", "auto", "required"]
ConstraintKind = Literal["json_schema", "json_object", "regex", "grammar", "choice"]

MAX_STOP_STRINGS = 16
StopString = Annotated[str, Meta(max_length=1024)]
StopStrings = Annotated[list[StopString], Meta(max_length=MAX_STOP_STRINGS)]
# More than any conversation has: each one costs time before anything can be refused.
MAX_MESSAGES = 10_000
MAX_PARTS = 10_000  # of one message
MAX_INPUTS = 2048  # OpenAI's limit for one request
MAX_CONSTRAINT_BYTES = 64 << 10
MAX_BREAKER_CHARS = 128  # of all together
MAX_TOOLS = 128
MAX_TOOL_BYTES = 64 << 10  # of one tool's parameters
MAX_TOOLS_BYTES = 256 << 10  # of all tools' descriptions and parameters
MAX_TOOL_DEPTH = 64
# llama.cpp's order (common/common.h, common_params_sampling)
SAMPLER_ORDER: tuple[SamplerName, ...] = (
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
)

# What clients may tell a chat template: variables that templates of real models read, and none that stands for what a
# request has in other fields, or that a template calls.
TEMPLATE_VARIABLES = frozenset(
    """
    enable_thinking thinking thinking_mode thinking_option thinking_effort thinking_budget reasoning reasoning_effort
    reasoning_mode reasoning_strength include_thinking preserve_thinking preserved_thinking keep_past_thinking
    keep_reasoning clear_thinking drop_thinking truncate_history_thinking skip_thinking add_thoughts
    think_render_option documents controls grounding enable_citations custom_tools builtin_tools xml_tools python_tools
    tools_in_user_message custom_instructions developer_instruction developer_preamble default_system_prompt
    model_identity knowledge_cutoff date_string datetime current_date today add_vision_id
    """.split()
)
MAX_TEMPLATE_VARIABLES_BYTES = 256 << 10

# What a model's file can have a default for (core/defaults.py).
MODEL_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "xtc_probability",
    "xtc_threshold",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "repetition_penalty",
    "repeat_last_n",
    "samplers",
)

# And what can be written beside one (core/modelfile.py).
_OWN_FIELDS = (*MODEL_FIELDS, "typical_p", "presence_penalty", "frequency_penalty")


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call that an assistant made in an earlier turn; `arguments` is the JSON text of an object."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a chat; text parts are already joined by the protocol. An assistant's turn may have `reasoning` and
    `tool_calls`; a tool's answer says in `tool_call_id` to which call it belongs."""

    role: str
    content: str
    name: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function that the model may call; `parameters` is the JSON text of the schema of its arguments, an object's.
    Without one there are none, as OpenAI has it. With `strict` they are enforced."""

    name: str
    description: str | None = None
    parameters: str = '{"type":"object","properties":{},"additionalProperties":false}'
    strict: bool = False


class ToolChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether calls may come or must; with `name` it is that tool that must be called. Without `parallel` there is at
    most one call in an answer."""

    mode: ToolMode = "auto"
    name: str | None = None
    parallel: bool = True


class Reasoning(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the model may think before it answers; None leaves it to the model. `enabled` and `effort` go to its
    template, `budget_tokens` ends the thinking when that many tokens of it have come. With `is_raw` the thoughts are
    left in the text, as the model marks them."""

    enabled: bool | None = None
    effort: str | None = None
    budget_tokens: int | None = None
    is_raw: bool = False


class Chat(msgspec.Struct, frozen=True, tag="chat", omit_defaults=True):
    """Messages for the model's own chat template, rendered in the worker. `template_kwargs` are variables for it, of
    those names that are allowed (`TEMPLATE_VARIABLES`). With `continue_final` the last message, an assistant's, is gone
    on with; without `add_generation_prompt` nothing says that the assistant speaks next."""

    messages: list[Message]
    tools: list[Tool] = []
    tool_choice: ToolChoice = ToolChoice()
    reasoning: Reasoning = Reasoning()
    template_kwargs: dict[str, Any] = {}
    continue_final: bool = False
    add_generation_prompt: bool = True


class Text(msgspec.Struct, frozen=True, tag="text"):
    """Raw text, tokenized without a template; special tokens in it are parsed."""

    text: str


class Tokens(msgspec.Struct, frozen=True, tag="tokens"):
    """Token ids as they are; the worker checks each against the vocabulary."""

    ids: list[TokenId]


class File(msgspec.Struct, frozen=True):
    """A text that helps to complete another one."""

    name: str
    text: str


class Infill(msgspec.Struct, frozen=True, tag="infill", omit_defaults=True):
    """What goes between `prefix` and `suffix` is asked for, beginning with `prompt`; as much of the end of `extra` is
    put before them as the context has room for. `field` is what the client calls the suffix."""

    prefix: str
    suffix: str
    prompt: str = ""
    extra: list[File] = []
    field: str = "suffix"


Prompt = Chat | Text | Tokens | Infill


class Constraint(msgspec.Struct, frozen=True):
    """What an answer must be, in the words of its kind: a JSON schema, nothing for "json_object", a regular expression,
    a grammar in GBNF or Lark, a JSON array of strings to choose from. `field` is what the client calls it."""

    kind: ConstraintKind
    text: str
    field: str


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is chosen; docs/sampling.md says what each field does. Defaults are llama.cpp's own
    (common/common.h, common_params_sampling), for which a model's file may have others: those replace what is as it is
    here, except what is named in `explicit`.

    `temperature` 0 is greedy. `top_k` 0 or -1 means no limit. Presence and frequency penalties look at the generated
    text only, the repetition penalty at the last `repeat_last_n` tokens, prompt included. Without a seed, or with -1,
    each choice draws its own; choice i of a seeded request uses seed + i.
    """

    temperature: Temperature = 0.8
    dynatemp_range: TemperatureRange = 0.0
    dynatemp_exponent: Exponent = 1.0
    top_k: TopK = 40
    top_p: Probability = 0.95
    min_p: Probability = 0.05
    typical_p: Probability = 1.0
    top_n_sigma: Sigmas = -1.0
    xtc_probability: Probability = 0.0
    xtc_threshold: Probability = 0.1
    mirostat: Mirostat = 0
    mirostat_tau: Surprise = 5.0
    mirostat_eta: LearningRate = 0.1
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: RepetitionPenalty = 1.0
    repeat_last_n: Window = 64
    dry_multiplier: DryMultiplier = 0.0
    dry_base: DryBase = 1.75
    dry_allowed_length: DryLength = 2
    dry_penalty_last_n: Window = 64
    dry_sequence_breakers: tuple[Breaker, ...] = ("\n", ":", '"', "*")
    samplers: tuple[SamplerName, ...] = SAMPLER_ORDER
    logit_bias: dict[TokenId, Bias] = {}
    ignore_eos: bool = False
    min_tokens: MinTokens = 0
    bad_words: list[BadWord] = []
    seed: Seed | None = None
    explicit: tuple[str, ...] = ()

    @classmethod
    def of(cls, **fields: Any) -> "Sampling":
        """What a client asked for; None stands for what it did not say."""
        given = {name: value for name, value in fields.items() if value is not None}
        explicit = tuple(name for name in _OWN_FIELDS if name in given and given[name] == getattr(_DEFAULTS, name))
        return cls(**given, explicit=explicit)

    def or_else(self, own: dict[str, Any]) -> "Sampling":
        """The same with a model's own values for the fields that were not asked for."""
        missing = self._missing(own)
        return msgspec.structs.replace(self, **missing) if missing else self

    def with_own(self, own: dict[str, Any]) -> "Sampling":
        """The same, as if they had been asked for: what the model's file says does not replace them."""
        missing = self._missing(own)
        return msgspec.structs.replace(self, **missing, explicit=(*self.explicit, *missing)) if missing else self

    def _missing(self, own: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in own.items()
            if name not in self.explicit and getattr(self, name) == getattr(_DEFAULTS, name)
        }


_DEFAULTS = Sampling()


class Speculative(msgspec.Struct, frozen=True, omit_defaults=True):
    """How tokens are guessed, which changes nothing but the speed: "ngram" looks them up in the text so far, "draft"
    asks the draft model. None leaves it to the server. At most `n_max` of them are computed in one step."""

    type: SpeculativeType | None = None
    n_max: DraftTokens | None = None


class LoraScale(msgspec.Struct, frozen=True, omit_defaults=True):
    """An adapter by its number or by its name, exactly one of them, and how strong it is to be."""

    id: AdapterNumber | None = None
    name: AdapterName | None = None
    scale: AdapterScale = 1.0


Adapters = Annotated[list[LoraScale], Meta(max_length=64)]


class Truncation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What may be dropped of a prompt that is too long: tokens at one side until `num_tokens` are left (-1: as many as
    fit), or, for chats, the oldest turns until the rest fits. Fitting leaves room for the answer."""

    what: DroppedPart = "first_tokens"
    num_tokens: NumKept = -1


class Generation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request to one model. `max_tokens` None means up to the context; `num_choices` share one prefill. A token of
    `stop_tokens` ends a choice like the model's own end tokens. `logprobs` is how many alternatives to each token come
    back with it, 0 for the token's own probability only, None for nothing. With `echo` the prompt comes back too, and
    with `echo_logprobs`, which goes with `logprobs`, all of its tokens; then the token that ends a choice is told, too.
    Every choice meets the `constraint`, or ends for its length.

    Of one tenant's requests the one with the lowest `priority` goes first. `tenant` tells whose request it is, without
    telling the key; all are one tenant where there are no keys. `timeout_seconds` count from the request's arrival to
    its end, `queue_seconds` until it begins to run: without them it may take as long as it takes. What is computed for
    a request with an `encryption_key` (32 bytes) is only found again by requests with the same one. The answer will
    perhaps resemble `prediction`. Of the model's LoRA adapters it has those in `lora`, and without that those that the
    server has for it. Without a `truncation` a prompt that is too long is an error.
    """

    id: str
    model: str
    prompt: Prompt
    sampling: Sampling = Sampling()
    max_tokens: MaxTokensOrNone | None = None
    stop: list[str] = []
    stop_tokens: list[TokenId] = []
    num_choices: NumChoices = 1
    logprobs: NumLogprobs | None = None
    echo: bool = False
    echo_logprobs: bool = False
    constraint: Constraint | None = None
    priority: Priority = 0
    tenant: str = ""
    timeout_seconds: Patience | None = None
    queue_seconds: Patience | None = None
    encryption_key: Secret | None = None
    speculative: Speculative = Speculative()
    prediction: str = ""
    lora: Adapters | None = None
    truncation: Truncation | None = None

    @property
    def num_results(self) -> int:
        """How many ends its answer has."""
        return self.num_choices


class Embedding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Texts, or token ids, of which one model makes vectors: one of each, or with `pooling` "none" one of each token.
    With a `query` it makes a score of each, which says how well that text answers the query.

    `pooling` None is the model's own. Of each vector the first `dimensions` numbers are kept, and those are scaled
    by their `norm`. Without a `truncation` an input that is too long is an error. `field` is what the client calls
    an input, with "*" for its number. The rest is as in a `Generation`.
    """

    id: str
    model: str
    inputs: list[str | list[TokenId]]
    field: str = "input[*]"
    query: str | None = None
    pooling: Pooling | None = None
    dimensions: Dimensions | None = None
    norm: Norm = 2
    truncation: Truncation | None = None
    priority: Priority = 0
    tenant: str = ""
    timeout_seconds: Patience | None = None
    queue_seconds: Patience | None = None

    @property
    def num_results(self) -> int:
        return len(self.inputs)
