"""POST /api/pull and /api/copy, DELETE /api/delete."""

from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.settings import Settings
from shimmy.core.unknown_fields import Decoder
from shimmy.protocols.ollama.errors import encode_error_line
from shimmy.protocols.ollama.progress import last, lines
from shimmy.protocols.ollama.wire import CopyRequest, DeleteRequest, PullRequest
from shimmy.server.inference import Inference
from shimmy.server.store_access import StoreAccess
from shimmy.server.streaming import LineStream, until_disconnect
from shimmy.server.strictness import read

_pull_decoder = Decoder(PullRequest)
_copy_decoder = Decoder(CopyRequest)
_delete_decoder = Decoder(DeleteRequest)


class StoreRequests:
    def __init__(self, inference: Inference, settings: Settings) -> None:
        self._store = StoreAccess(inference, settings)
        self._ping_seconds = settings.ping_seconds

    async def pull(self, request: Request) -> Response | LineStream:
        body = await read(request, _pull_decoder)
        if body.insecure:
            raise Unsupported("insecure: models come over https only", param="insecure")
        told = lines(self._store.pull(_named(body), body.revision))
        if body.stream is not False:
            return LineStream(told, encode_error_line, self._ping_seconds)
        return Response(await until_disconnect(request.receive, last(told)), media_type="application/json")

    async def copy(self, request: Request) -> Response:
        body = await read(request, _copy_decoder)
        await self._store.copy(body.source, body.destination)
        return Response()

    async def delete(self, request: Request) -> Response:
        body = await read(request, _delete_decoder)
        await self._store.remove(_named(body))
        return Response()


def _named(body: PullRequest | DeleteRequest) -> str:
    name = body.model or body.name
    if not name:
        raise RequestError("model: this field is required", param="model")
    return name
