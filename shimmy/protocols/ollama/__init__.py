"""Ollama's API: wire to core and back, nothing else."""

from functools import cached_property
from typing import TYPE_CHECKING

from starlette.routing import Route
from starlette.types import Scope

from shimmy.core.errors import ShimmyError
from shimmy.core.keys import admin, infer, public
from shimmy.server.protocol import Protocol, Upload, route

if TYPE_CHECKING:
    from shimmy.core.operation import Operation
    from shimmy.protocols.ollama.about import About
    from shimmy.protocols.ollama.chat import Chats
    from shimmy.protocols.ollama.create import Creations
    from shimmy.protocols.ollama.embed import Embeds
    from shimmy.protocols.ollama.generate import Generates
    from shimmy.protocols.ollama.models import Models
    from shimmy.protocols.ollama.store import StoreRequests

__all__ = ["Ollama"]


class Ollama(Protocol):
    """Everything below /api and /ws has its errors, also where the original Shimmy's API has routes there."""

    def routes(self) -> list[Route]:
        """/api/generate is not among them: protocols/native has it, and hands on what is meant for `generates`."""
        return [
            route("GET", "/", public, lambda: self.about.greet),
            route("GET", "/api/version", infer, lambda: self.about.version),
            route("POST", "/api/chat", infer, lambda: self.chats.create),
            route("POST", "/api/embed", infer, lambda: self.embeds.create),
            route("POST", "/api/embeddings", infer, lambda: self.embeds.create_legacy),
            route("GET", "/api/tags", infer, lambda: self.models.list),
            route("GET", "/api/ps", infer, lambda: self.models.loaded),
            route("POST", "/api/show", infer, lambda: self.models.show),
            route("POST", "/api/pull", admin, lambda: self.store.pull),
            route("POST", "/api/copy", admin, lambda: self.store.copy),
            route("DELETE", "/api/delete", admin, lambda: self.store.delete),
            route("POST", "/api/push", infer, lambda: self.about.refuse_push),
            route("POST", "/api/create", admin, lambda: self.creations.create),
            route("HEAD POST", "/api/blobs/{digest}", admin, lambda: self.creations.blob, Upload),
        ]

    @cached_property
    def about(self) -> "About":
        from shimmy.protocols.ollama.about import About

        return About()

    @cached_property
    def chats(self) -> "Chats":
        from shimmy.protocols.ollama.chat import Chats

        return Chats(self._inference, self._settings)

    @cached_property
    def generates(self) -> "Generates":
        from shimmy.protocols.ollama.generate import Generates

        return Generates(self._inference, self._settings)

    @cached_property
    def embeds(self) -> "Embeds":
        from shimmy.protocols.ollama.embed import Embeds

        return Embeds(self._inference)

    @cached_property
    def models(self) -> "Models":
        from shimmy.protocols.ollama.models import Models

        return Models(self._inference)

    @cached_property
    def store(self) -> "StoreRequests":
        from shimmy.protocols.ollama.store import StoreRequests

        return StoreRequests(self._inference, self._settings)

    @cached_property
    def creations(self) -> "Creations":
        from shimmy.protocols.ollama.create import Creations

        return Creations(self._inference, self._settings)

    def operations(self) -> "dict[str, Operation]":
        from shimmy.protocols.ollama.described import OPERATIONS

        return OPERATIONS

    def owns(self, scope: Scope) -> bool:
        path: str = scope["path"]
        return path.startswith(("/api/", "/ws/"))

    def encode_error(self, error: ShimmyError, request_id: str) -> bytes:
        from shimmy.protocols.ollama.errors import encode_error

        return encode_error(error)
