"""What Ollama's API says of the server itself: GET /, GET /api/version, and which changes it does not make."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from shimmy.core.errors import Unimplemented

# That of Ollama whose API this is; clients ask for 0.6.4 and more.
API_VERSION = "0.12.11"


class About:
    async def greet(self, request: Request) -> Response:
        return PlainTextResponse("Ollama is running")

    async def version(self, request: Request) -> Response:
        return Response(b'{"version":"%s"}' % API_VERSION.encode(), media_type="application/json")

    async def refuse_push(self, request: Request) -> Response:
        raise Unimplemented("/api/push is not implemented: this server brings models and gives none away")
