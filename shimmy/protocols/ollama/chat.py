"""POST /api/chat."""

from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.raw_json import ABSENT
from shimmy.core.request import Chat, Generation, Tool
from shimmy.core.settings import Settings
from shimmy.core.tool_schema import check_total, schema_text
from shimmy.core.unknown_fields import Decoder
from shimmy.protocols.ollama.answer import chat_shape
from shimmy.protocols.ollama.endpoint import Endpoint
from shimmy.protocols.ollama.generation import fields, new_id, reasoning
from shimmy.protocols.ollama.messages import messages, with_own
from shimmy.protocols.ollama.wire import ChatRequest, ToolField
from shimmy.server.inference import Inference
from shimmy.server.streaming import EventStream
from shimmy.server.strictness import read

_decoder = Decoder(ChatRequest)


class Chats(Endpoint):
    def __init__(self, inference: Inference, settings: Settings) -> None:
        super().__init__(inference, settings, chat_shape)

    async def create(self, request: Request) -> Response | EventStream:
        body = await read(request, _decoder)
        if not body.messages:
            return await self.answer(request, body, None)
        last = body.messages[-1]
        # What the assistant has begun to say is gone on with.
        goes_on = last.role == "assistant" and not last.tool_calls
        chat = Chat(
            with_own(await self._inference.models.own(body.model), messages(body.messages)),
            tools=_tools(body.tools or []),
            reasoning=reasoning(body.think),
            continue_final=goes_on,
            add_generation_prompt=not goes_on,
        )
        generation = Generation(id=new_id(), prompt=chat, tenant=request.state.tenant, **fields(body))
        return await self.answer(request, body, generation)


def _tools(given: list[ToolField]) -> list[Tool]:
    found: dict[str, Tool] = {}
    for at, tool in enumerate(given):
        field = f"tools[{at}]"
        if tool.type not in (None, "", "function"):
            raise Unsupported(f"{field}.type: only functions are supported", param=f"{field}.type")
        function = tool.function
        field = f"{field}.function"
        if function.name in found:
            raise RequestError(f"{field}.name: there are two tools {function.name!r}", param=f"{field}.name")
        found[function.name] = Tool(function.name, function.description)
        if function.parameters != ABSENT:
            parameters = schema_text(f"{field}.parameters", bytes(function.parameters))
            found[function.name] = Tool(function.name, function.description, parameters)
    tools = list(found.values())
    check_total("tools", tools)
    return tools
