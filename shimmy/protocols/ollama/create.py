"""POST /api/create, and the files for it: HEAD and POST /api/blobs/{digest}."""

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.modelfile import Recipe, wrong_params
from shimmy.core.settings import Settings
from shimmy.core.unknown_fields import Decoder
from shimmy.protocols.ollama.errors import encode_error_line
from shimmy.protocols.ollama.progress import last, lines
from shimmy.protocols.ollama.wire import CreateRequest
from shimmy.server.inference import Inference
from shimmy.server.store_access import StoreAccess
from shimmy.server.streaming import ClientGone, LineStream, until_disconnect
from shimmy.server.strictness import read

_decoder = Decoder(CreateRequest)
_HEX = frozenset("0123456789abcdef")


class Creations:
    def __init__(self, inference: Inference, settings: Settings) -> None:
        self._store = StoreAccess(inference, settings)
        self._ping_seconds = settings.ping_seconds

    async def create(self, request: Request) -> Response | LineStream:
        recipe = _recipe(body := await read(request, _decoder))
        told = lines(self._store.make(recipe))
        if body.stream is not False:
            return LineStream(told, encode_error_line, self._ping_seconds)
        return Response(await until_disconnect(request.receive, last(told)), media_type="application/json")

    async def blob(self, request: Request) -> Response:
        """HEAD asks whether it is here, POST brings it."""
        digest = _digest(request.path_params["digest"], "digest")
        is_here = await self._store.has_blob(digest)
        if request.method != "POST":
            return Response(status_code=200 if is_here else 404)
        try:
            # One that is here as well: who sends it may not listen before all is sent.
            await self._store.take_blob(digest, request.stream())
        except ClientDisconnect:
            raise ClientGone from None
        return Response(status_code=200 if is_here else 201)


def _recipe(body: CreateRequest) -> Recipe:
    """Raises `RequestError` naming the field."""
    name = body.model or body.name
    if not name:
        raise RequestError("model: this field is required", param="model")
    if body.template:
        raise Unsupported(
            "template: Ollama's templates are not executed; leave this field out, and the model's own is used, "
            "from its GGUF file or, for SafeTensors, from tokenizer_config.json",
            param="template",
        )
    if body.modelfile:
        raise Unsupported("modelfile: not supported; the other fields do that", param="modelfile")
    if (body.source is None) == (not body.files):
        raise RequestError("either from, a model, or files is required", param="from")
    if wrong := wrong_params(body.parameters or {}):
        raise RequestError(f"parameters.{wrong[0]}: no value of this parameter", param=f"parameters.{wrong[0]}")
    licenses = [body.license] if isinstance(body.license, str) else body.license or []
    return Recipe(
        name,
        body.source,
        _digests(body.files, "files"),
        _digests(body.adapters, "adapters"),
        body.system,
        body.parameters or {},
        tuple(body.messages or ()),
        tuple(licenses),
        body.quantize or body.quantization,
    )


def _digests(files: dict[str, str] | None, field: str) -> dict[str, str]:
    return {name: _digest(digest, f"{field}.{name[:80]}") for name, digest in (files or {}).items()}


def _digest(text: str, field: str) -> str:
    """Its 64 hex digits, which alone become a path."""
    digest = text.removeprefix("sha256:").removeprefix("sha256-")
    if len(digest) != 64 or not _HEX.issuperset(digest):
        raise RequestError(f"{field}: no sha256 digest", param=field)
    return digest
