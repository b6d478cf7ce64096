"""GET /v1/models and GET /v1/models/{id} as Anthropic's clients expect them, who say so by an `anthropic-version`."""

import time
from itertools import islice
from typing import Any

from msgspec import json
from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.errors import RequestError
from shimmy.server.inference import Inference
from shimmy.server.protocol import json_list, json_response
from shimmy.server.streaming import LongAnswer

# Anthropic API reference, List Models.
_DEFAULT_LIMIT = 20
_MAX_LIMIT = 1000


class Models:
    def __init__(self, inference: Inference) -> None:
        self._models = inference.models

    async def list(self, request: Request) -> LongAnswer:
        """Page by page, those that answer to messages."""
        limit, query = _limit(request), request.query_params
        await self._models.refresh()
        found = [each for each in self._models.catalog.models() if self._models.answers(each) and _is_for_chats(each)]
        if backwards := "before_id" in query:
            found.reverse()
        if (beside := query.get("before_id", query.get("after_id"))) is not None:
            at = next((at for at, model in enumerate(found) if model.id == beside), None)
            if at is None:
                field = "before_id" if backwards else "after_id"
                raise RequestError(f"{field}: there is no model {beside[:80]!r}", param=field)
            found = found[at + 1 :]
        page = list(islice(found, limit))
        if backwards:
            page.reverse()
        ends = {"first_id": page[0].id, "last_id": page[-1].id} if page else {"first_id": None, "last_id": None}
        about = json.encode({"has_more": len(page) < len(found), **ends})
        return await json_list(b'{"data":[', map(_entry, page), b"]," + about[1:])

    async def get(self, request: Request) -> Response:
        await self._models.refresh()
        return json_response(_entry(await self._models.find(request.path_params["id"])))


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(_DEFAULT_LIMIT))
    if not text.isascii() or not text.isdigit() or len(text) > 4 or not 1 <= int(text) <= _MAX_LIMIT:
        raise RequestError(f"limit: expected a number from 1 to {_MAX_LIMIT}", param="limit")
    return int(text)


def _is_for_chats(model: Any) -> bool:
    return model.facts is None or "completion" in model.facts.capabilities


def _entry(model: Any) -> dict[str, Any]:
    """What a file cannot say, its `capabilities` as Anthropic counts them, is null."""
    facts = model.facts
    length = facts.context_length if facts else None
    return {
        "type": "model",
        "id": model.id,
        "display_name": (facts.name if facts else None) or model.id,
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(model.modified_unix)),
        "lifecycle": "active",
        "max_input_tokens": length,
        "max_tokens": length,
        "capabilities": None,
    }
