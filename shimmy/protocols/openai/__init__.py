"""The OpenAI API: wire to core and back, nothing else."""

from starlette.routing import Route

from shimmy.core.settings import Settings
from shimmy.protocols.openai.chat import ChatCompletions
from shimmy.protocols.openai.completions import Completions
from shimmy.protocols.openai.errors import encode_error
from shimmy.protocols.openai.models import Models
from shimmy.server.inference import Inference

__all__ = ["encode_error", "routes"]


def routes(inference: Inference, settings: Settings) -> list[Route]:
    models = Models(inference)
    return [
        Route("/v1/chat/completions", ChatCompletions(inference, settings).create, methods=["POST"]),
        Route("/v1/completions", Completions(inference, settings).create, methods=["POST"]),
        Route("/v1/models", models.list),
        Route("/v1/models/{id:path}", models.get),
    ]
