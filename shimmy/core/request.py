"""What a client asks of a model, free of any wire format.

Protocols decode their bytes into one `Generation`; the worker reads nothing else. The ranges live here, as annotated
types, so that every protocol checks the same ones while decoding (msgspec applies them on decode, not on construction).
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Temperature = Annotated[float, Meta(ge=0, le=100)]
Probability = Annotated[float, Meta(ge=0, le=1)]
TopK = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Meta(gt=0, le=10)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
MaxTokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
NumChoices = Annotated[int, Meta(ge=1, le=128)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Priority = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Patience = Annotated[float, Meta(gt=0, le=86_400)]
SpeculativeType = Literal["none", "ngram", "draft"]
DraftTokens = Annotated[int, Meta(ge=0, le=64)]

MAX_STOP_STRINGS = 16


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a chat; text parts are already joined by the protocol."""

    role: str
    content: str
    name: str | None = None


class Chat(msgspec.Struct, frozen=True, tag="chat"):
    """Messages for the model's own chat template, rendered in the worker."""

    messages: list[Message]


class Text(msgspec.Struct, frozen=True, tag="text"):
    """Raw text, tokenized without a template; special tokens in it are parsed."""

    text: str


class Tokens(msgspec.Struct, frozen=True, tag="tokens"):
    """Token ids as they are; the worker checks each against the vocabulary."""

    ids: list[TokenId]


Prompt = Chat | Text | Tokens


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is chosen. Defaults are llama.cpp's own (common/common.h, common_params_sampling).

    `temperature` 0 is greedy. `top_k` 0 or -1 means no limit. Presence and frequency penalties look at the generated
    text only, the repetition penalty at the last 64 tokens, prompt included. Without a seed each choice draws its own;
    choice i of a seeded request uses seed + i.
    """

    temperature: Temperature = 0.8
    top_k: TopK = 40
    top_p: Probability = 0.95
    min_p: Probability = 0.05
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: RepetitionPenalty = 1.0
    logit_bias: dict[TokenId, Bias] = {}
    seed: Seed | None = None


class Speculative(msgspec.Struct, frozen=True, omit_defaults=True):
    """How tokens are guessed, which changes nothing but the speed: "ngram" looks them up in the text so far, "draft"
    asks the draft model. None leaves it to the server. At most `n_max` of them are computed in one step."""

    type: SpeculativeType | None = None
    n_max: DraftTokens | None = None


class Generation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request to one model. `max_tokens` None means up to the context; `num_choices` share one prefill.

    Of one tenant's requests the one with the lowest `priority` goes first. `tenant` tells whose request it is, without
    telling the key; all are one tenant where there are no keys. `timeout_seconds` count from the request's arrival to
    its end, `queue_seconds` until it begins to run: without them it may take as long as it takes. The answer will
    perhaps resemble `prediction`.
    """

    id: str
    model: str
    prompt: Prompt
    sampling: Sampling = Sampling()
    max_tokens: MaxTokens | None = None
    stop: list[str] = []
    num_choices: NumChoices = 1
    priority: Priority = 0
    tenant: str = ""
    timeout_seconds: Patience | None = None
    queue_seconds: Patience | None = None
    speculative: Speculative = Speculative()
    prediction: str = ""
