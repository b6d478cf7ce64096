"""POST /tokenize, /detokenize, /apply-template and /v1/chat/completions/input_tokens, as llama-server and vLLM have
them: what a model makes of a text."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from shimmy.core import ipc
from shimmy.core.decoding import decode
from shimmy.core.errors import RequestError
from shimmy.core.request import ModelName, Prompt, Text, TokenId
from shimmy.core.unknown_fields import Decoder
from shimmy.protocols.openai.chat import chat_of
from shimmy.protocols.openai.wire import ChatRequest
from shimmy.server.inference import Inference
from shimmy.server.protocol import json_response
from shimmy.server.streaming import until_disconnect
from shimmy.server.strictness import note, read


class TokenizeRequest(msgspec.Struct, frozen=True):
    """llama-server's has `content`, vLLM's `prompt`, or `messages` with all that belongs to them."""

    model: ModelName | None = None
    content: str | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    messages: Any = None


class DetokenizeRequest(msgspec.Struct, frozen=True):
    tokens: list[TokenId]
    model: ModelName | None = None


class ChatFields(ChatRequest, frozen=True, kw_only=True):
    """A chat whose model need not be named."""

    model: ModelName = ""


class TokenizeChat(ChatFields, frozen=True, kw_only=True):
    """With vLLM's fields for its tokens."""

    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


_tokenize = Decoder(TokenizeRequest)
_detokenize = Decoder(DetokenizeRequest)
_chat = Decoder(ChatFields)
_chat_to_tokenize = Decoder(TokenizeChat)


class TokenEndpoints:
    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def tokenize(self, request: Request) -> Response:
        body, unknown = decode(_tokenize, await request.body())
        given = [name for name in ("content", "prompt", "messages") if getattr(body, name) is not None]
        if len(given) != 1:
            raise RequestError("content: this field is required, or prompt, or messages; one of them", param="content")
        if body.messages is not None:
            chat = await read(request, _chat_to_tokenize)
            question = _of_prompt(body, chat_of(chat))
        else:
            note(request, unknown)
            content = body.content
            question = _of_text(body, content) if content is not None else _of_prompt(body, Text(body.prompt or ""))
        model = await self._model(body.model)
        try:
            answer = await self._asked(request, lambda: self._inference.tokenize(model, question, request.state.tenant))
        except RequestError as error:
            raise _in_the_names_of(body, error) from None
        if body.content is not None:
            return json_response({"tokens": _with_pieces(answer) if question.spelled else answer.tokens})
        strings = [_text(piece) for piece in answer.pieces] if question.spelled else None
        length = await self._inference.models.context_length(model)
        counted = {"count": len(answer.tokens), "max_model_len": length}
        return json_response(counted | {"tokens": answer.tokens, "token_strs": strings})

    async def detokenize(self, request: Request) -> Response:
        """llama-server calls the text `content`, vLLM `prompt`."""
        body = await read(request, _detokenize)
        model, tenant = await self._model(body.model), request.state.tenant
        text = await self._asked(request, lambda: self._inference.detokenize(model, body.tokens, tenant))
        return json_response({"content": text, "prompt": text})

    async def apply_template(self, request: Request) -> Response:
        body = await read(request, _chat)
        chat, model = chat_of(body), await self._model(body.model)
        text = await self._asked(request, lambda: self._inference.render(model, chat, request.state.tenant))
        return json_response({"prompt": text})

    async def count(self, request: Request) -> Response:
        """In the words of /v1/responses/input_tokens, as with llama-server."""
        body = await read(request, _chat)
        chat, model = chat_of(body), await self._model(body.model)
        num_tokens = await self._asked(request, lambda: self._inference.count_tokens(model, chat, request.state.tenant))
        return json_response({"object": "response.input_tokens", "input_tokens": num_tokens})

    async def _model(self, name: str | None) -> str:
        return name if name else await self._inference.models.only_model()

    async def _asked(self, request: Request, ask: Callable[[], Awaitable[Any]]) -> Any:
        async def answer() -> Any:
            return await ask()

        return await until_disconnect(request.receive, answer())


def _of_text(body: TokenizeRequest, text: str) -> ipc.Tokenize:
    """llama-server adds nothing to a text unless it is told to."""
    return ipc.Tokenize(Text(text), bool(body.add_special), body.parse_special is not False, bool(body.with_pieces))


def _of_prompt(body: TokenizeRequest, prompt: Prompt) -> ipc.Tokenize:
    """vLLM adds what the model begins texts with."""
    return ipc.Tokenize(prompt, body.add_special_tokens is not False, True, bool(body.return_token_strs))


def _in_the_names_of(body: TokenizeRequest, error: RequestError) -> RequestError:
    is_text = body.content is not None and error.param == "prompt"
    return type(error)(error.message, param="content", **error.details) if is_text else error


def _with_pieces(answer: ipc.Tokenized) -> list[dict[str, Any]]:
    """A piece is a text, or where it is only a part of a character, its bytes."""
    return [{"id": token, "piece": _piece(piece)} for token, piece in zip(answer.tokens, answer.pieces, strict=True)]


def _piece(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")
