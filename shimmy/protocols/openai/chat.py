"""POST /v1/chat/completions."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.errors import RequestError
from shimmy.core.events import Finished, FinishReason, ToolCallDelta
from shimmy.core.request import Chat, Generation
from shimmy.core.unknown_fields import Decoder
from shimmy.protocols.openai import reasoning
from shimmy.protocols.openai.answer import Call, Choice
from shimmy.protocols.openai.chunks import Shape, encode
from shimmy.protocols.openai.constraint import constraint
from shimmy.protocols.openai.endpoint import Endpoint, Kind
from shimmy.protocols.openai.generation import (
    common,
    new_id,
    refuse,
    token_limit,
    truncation,
)
from shimmy.protocols.openai.logprobs import chat_form
from shimmy.protocols.openai.messages import content, messages
from shimmy.protocols.openai.template import template_fields
from shimmy.protocols.openai.tools import is_legacy, tool_choice, tools
from shimmy.protocols.openai.wire import ChatRequest
from shimmy.server.streaming import EventStream
from shimmy.server.strictness import read

_decoder = Decoder(ChatRequest)


class ChatCompletions(Endpoint):
    async def create(self, request: Request) -> Response | EventStream:
        body = await read(request, _decoder)
        generation = generation_of(body, request.state.tenant)
        kind = _LEGACY_KIND if is_legacy(body) else _KIND
        hides = reasoning.is_hidden(body)
        return await self.answer(request, body, kind, generation.id, [generation], hides_thoughts=hides)


def generation_of(body: ChatRequest, tenant: str) -> Generation:
    if body.modalities != ["text"]:
        refuse({"modalities": body.modalities})
    return Generation(
        id=new_id("chatcmpl"),
        model=body.model,
        prompt=chat_of(body),
        max_tokens=token_limit(body),
        num_choices=body.n or 1,
        logprobs=_num_logprobs(body),
        prediction=content("prediction.content", body.prediction.content) if body.prediction else "",
        constraint=constraint(body),
        truncation=truncation(body, drops_turns=body.truncation == "auto"),
        **common(body, tenant),
    )


def chat_of(body: ChatRequest) -> Chat:
    refuse({"chat_template": body.chat_template})
    given = tools(body)
    return Chat(
        messages(body.messages),
        tools=given,
        tool_choice=tool_choice(body, given),
        reasoning=reasoning.reasoning(body),
        **template_fields(body.chat_template_kwargs, body.add_generation_prompt, body.continue_final_message),
    )


def _num_logprobs(body: ChatRequest) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise RequestError("top_logprobs: logprobs must be true for them", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def _choice(index: int, choice: Choice) -> dict[str, Any]:
    message = _message(choice)
    if choice.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": _function(call)} for call in choice.calls
        ]
    return _with_warning({"index": index, "message": message}, choice)


def _legacy_choice(index: int, choice: Choice) -> dict[str, Any]:
    """Of before there were several calls in one answer."""
    message = _message(choice)
    if choice.calls:
        message["function_call"] = _function(choice.calls[0])
    return _with_warning({"index": index, "message": message}, choice)


def _message(choice: Choice) -> dict[str, Any]:
    """Thoughts go by both names that clients look for."""
    text = None if choice.calls and not choice.text else choice.text
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if choice.reasoning:
        message |= {"reasoning_content": choice.reasoning, "reasoning": choice.reasoning}
    return message


def _function(call: Call) -> dict[str, str]:
    return {"name": call.name, "arguments": call.arguments}


def _with_warning(shown: dict[str, Any], choice: Choice) -> dict[str, Any]:
    return shown | {"warning": choice.warning} if choice.warning else shown


def _begin(index: int) -> bytes:
    return _delta(index, b'{"role":"assistant","content":""}')


def _go_on(index: int, text: str, logprobs: bytes) -> bytes:
    return _delta(index, b'{"content":' + encode(text) + b"}", logprobs)


def _think(index: int, text: str, logprobs: bytes) -> bytes:
    thought = encode(text)
    return _delta(index, b'{"reasoning_content":%s,"reasoning":%s}' % (thought, thought), logprobs)


def _call(index: int, event: ToolCallDelta) -> bytes:
    """Id and name come once and never as null: clients take each that they see for a new call."""
    begun = b'"id":%s,"type":"function",' % encode(event.call_id) if event.name is not None else b""
    call = b'{"index":%d,%s"function":%s}' % (event.call, begun, _function_delta(event))
    return _delta(index, b'{"tool_calls":[%s]}' % call)


def _legacy_call(index: int, event: ToolCallDelta) -> bytes:
    return _delta(index, b'{"function_call":%s}' % _function_delta(event))


def _function_delta(event: ToolCallDelta) -> bytes:
    name = b'"name":%s,' % encode(event.name) if event.name is not None else b""
    return b'{%s"arguments":%s}' % (name, encode(event.arguments))


def _finish(index: int, event: Finished) -> bytes:
    return _delta(index, b"{}", reason=encode(event.reason), warning=event.warning)


def _legacy_finish(index: int, event: Finished) -> bytes:
    return _delta(index, b"{}", reason=encode(_legacy_reason(event.reason)), warning=event.warning)


def _legacy_reason(reason: FinishReason) -> str:
    return "function_call" if reason == "tool_calls" else reason


def _delta(
    index: int, delta: bytes, logprobs: bytes = b"null", reason: bytes = b"null", warning: str | None = None
) -> bytes:
    more = b',"warning":' + encode(warning) if warning else b""
    return b'{"index":%d,"delta":%s,"logprobs":%s,"finish_reason":%s%s}' % (index, delta, logprobs, reason, more)


_KIND = Kind(
    "chat.completion", "chat.completion.chunk", _choice, Shape(_begin, _go_on, _finish, _think, _call), chat_form
)
_LEGACY_KIND = Kind(
    "chat.completion",
    "chat.completion.chunk",
    _legacy_choice,
    Shape(_begin, _go_on, _legacy_finish, _think, _legacy_call),
    chat_form,
    _legacy_reason,
)
