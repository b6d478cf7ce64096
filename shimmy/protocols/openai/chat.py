"""POST /v1/chat/completions."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.events import FinishReason
from shimmy.core.request import Chat, Generation, Message
from shimmy.protocols.openai.answer import Choice
from shimmy.protocols.openai.chunks import Shape, encode
from shimmy.protocols.openai.constraint import constraint
from shimmy.protocols.openai.endpoint import Endpoint, Kind
from shimmy.protocols.openai.errors import decode
from shimmy.protocols.openai.generation import (
    check_min_tokens,
    new_id,
    refuse,
    sampling,
    scheduling,
    speculative,
    stop_strings,
)
from shimmy.protocols.openai.logprobs import chat_form
from shimmy.protocols.openai.template import template_fields
from shimmy.protocols.openai.wire import ChatMessage, ChatRequest, Part
from shimmy.server.streaming import EventStream

_decoder = msgspec.json.Decoder(ChatRequest)


class ChatCompletions(Endpoint):
    async def create(self, request: Request) -> Response | EventStream:
        body = decode(_decoder, await request.body())
        _refuse_unsupported(body)
        max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        check_min_tokens(body, max_tokens)
        generation = Generation(
            id=new_id("chatcmpl"),
            model=body.model,
            prompt=Chat(
                [_message(at, message) for at, message in enumerate(body.messages)],
                **template_fields(body.chat_template_kwargs, body.add_generation_prompt, body.continue_final_message),
            ),
            sampling=sampling(body),
            max_tokens=max_tokens,
            stop=stop_strings(body),
            stop_tokens=body.stop_token_ids or [],
            num_choices=body.n or 1,
            logprobs=_num_logprobs(body),
            speculative=speculative(body),
            prediction=_content("prediction.content", body.prediction.content) if body.prediction else "",
            constraint=constraint(body),
            **scheduling(body, request.state.tenant),
        )
        return await self.answer(request, body, _KIND, generation.id, [generation])


def _refuse_unsupported(body: ChatRequest) -> None:
    if body.tool_choice not in ("none", "auto"):
        refuse({"tool_choice": body.tool_choice})
    if body.tool_choice != "none":
        refuse({"tools": body.tools})
    if body.function_call != "none":
        refuse({"functions": body.functions})
    refuse({"chat_template": body.chat_template})
    if body.modalities != ["text"]:
        refuse({"modalities": body.modalities})


def _num_logprobs(body: ChatRequest) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise RequestError("top_logprobs: logprobs must be true for them", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def _message(at: int, message: ChatMessage) -> Message:
    refuse({f"messages[{at}].tool_calls": message.tool_calls, f"messages[{at}].function_call": message.function_call})
    # A developer message is OpenAI's newer name for a system message; templates know the older one.
    role = "system" if message.role == "developer" else message.role
    return Message(role, _content(f"messages[{at}].content", message.content), message.name)


def _content(field: str, content: str | list[Part] | None) -> str:
    if isinstance(content, list):
        return "".join(_text(f"{field}[{at}]", part) for at, part in enumerate(content))
    return content or ""


def _text(field: str, part: Part) -> str:
    if part.type != "text":
        raise Unsupported(f"{field}.type: only text is supported, not {part.type!r}", param=f"{field}.type")
    if part.text is None:
        raise RequestError(f"{field}.text: this field is required", param=f"{field}.text")
    return part.text


def _choice(index: int, choice: Choice) -> dict[str, Any]:
    message = {"role": "assistant", "content": choice.text, "refusal": None}
    return {"index": index, "message": message}


def _begin(index: int, echo: str | None) -> bytes:
    return _delta(index, b'{"role":"assistant","content":""}')


def _go_on(index: int, text: str, logprobs: bytes) -> bytes:
    return _delta(index, b'{"content":' + encode(text) + b"}", logprobs)


def _finish(index: int, reason: FinishReason) -> bytes:
    return _delta(index, b"{}", reason=b'"%s"' % reason.encode())


def _delta(index: int, delta: bytes, logprobs: bytes = b"null", reason: bytes = b"null") -> bytes:
    return b'{"index":%d,"delta":%s,"logprobs":%s,"finish_reason":%s}' % (index, delta, logprobs, reason)


_KIND = Kind("chat.completion", "chat.completion.chunk", _choice, Shape(_begin, _go_on, _finish), chat_form)
