"""spindll.Spindll: what its calls do with the engine. spindll.proto says what each field means."""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from itertools import islice
from typing import Literal

from starlette.types import Scope

from shimmy.core.errors import ModelInUse, RequestError, Unsupported
from shimmy.core.events import Event, Finished, ReasoningDelta, TextDelta
from shimmy.core.request import Generation, Prompt, Text
from shimmy.core.settings import Settings
from shimmy.protocols.grpc.generation import chat, params, secret
from shimmy.protocols.grpc.messages import (
    ChatRequest,
    ChatResponse,
    DeleteRequest,
    DeleteResponse,
    GenerateParams,
    GenerateRequest,
    GenerateResponse,
    ListRequest,
    ListResponse,
    LoadedModel,
    LoadRequest,
    LoadResponse,
    MemoryInfo,
    ModelInfo,
    PrefillRequest,
    PrefillResponse,
    PullProgress,
    PullRequest,
    StatusRequest,
    StatusResponse,
    UnloadRequest,
    UnloadResponse,
    UsageStats,
)
from shimmy.protocols.grpc.methods import Method, Reply, unary
from shimmy.protocols.grpc.schema import encode
from shimmy.server.inference import Inference
from shimmy.server.store_access import StoreAccess
from shimmy.server.streaming import observed

_CPU = "CPU"
_INFOS_IN_A_ROW = 20
# By their numbers in spindll.proto.
_PRIORITIES: dict[int, Literal["low", "normal", "high"]] = {0: "normal", 1: "low", 2: "high"}


class Spindll:
    def __init__(self, inference: Inference, settings: Settings) -> None:
        self._inference = inference
        self._store = StoreAccess(inference, settings)

    async def generate(self, request: GenerateRequest, scope: Scope) -> Reply:
        async with aclosing(self._events(request.model, Text(request.prompt), request.params, b"", scope)) as events:
            async for event in events:
                match event:
                    case TextDelta(text=text) | ReasoningDelta(text=text) if text:
                        yield GenerateResponse(text)
                    case Finished(reason=reason):
                        yield GenerateResponse(done=True, usage=_usage(event), finish_reason=reason)

    async def chat(self, request: ChatRequest, scope: Scope) -> Reply:
        prompt = chat(request.messages)
        async with aclosing(
            self._events(request.model, prompt, request.params, request.encryption_key, scope)
        ) as events:
            async for event in events:
                match event:
                    case TextDelta(text=text) if text:
                        yield ChatResponse(text)
                    case ReasoningDelta(text=text) if text:
                        yield ChatResponse(reasoning=text)
                    case Finished(reason=reason):
                        yield ChatResponse(done=True, usage=_usage(event), finish_reason=reason)

    async def prefill(self, request: PrefillRequest, scope: Scope) -> PrefillResponse:
        """An answer of one token: it comes of the prompt's own logits, so that nothing is decoded for it."""
        prompt = chat(request.messages)
        num_tokens = 0
        one = GenerateParams(max_tokens=1)
        async with aclosing(self._events(request.model, prompt, one, request.encryption_key, scope)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    num_tokens = event.usage.prompt_tokens
        return PrefillResponse(num_tokens)

    async def list(self, request: ListRequest, scope: Scope) -> Reply:
        """One message, made a few models at a time, between which everybody else has their turn: what parts of a
        message have of a list adds up."""
        await self._inference.models.refresh()
        parts, infos = list[bytes](), self._infos()
        while few := [*islice(infos, _INFOS_IN_A_ROW)]:
            parts.append(encode(ListResponse(few)))
            await asyncio.sleep(0)
        yield b"".join([*parts, encode(ListResponse(prefer_format="gguf"))])

    async def load(self, request: LoadRequest, scope: Scope) -> LoadResponse:
        _check_options(request)
        scope["state"]["access"].model = request.model
        ready = {status.id for status in self._inference.models.statuses() if status.state == "ready"}
        # The default cannot be told from nothing said.
        if request.priority:
            scope["state"]["permit"]("admin")
            await self._inference.models.set_stay(request.model, priority=_PRIORITIES[request.priority])
        await self._inference.models.preload(request.model)
        found = await self._inference.models.find(request.model)
        return LoadResponse(True, f"{found.id} is loaded", found.id in ready)

    async def status(self, request: StatusRequest, scope: Scope) -> StatusResponse:
        models, devices, residence = [], set(), self._inference.models
        for status in residence.statuses():
            if loaded := status.loaded:
                num_on_gpus = sum(count for device, count in loaded.layers.items() if device != _CPU)
                taken = residence.taken_bytes(status.id) + sum(residence.gpu_bytes(status.id).values())
                models.append(
                    LoadedModel(
                        name=status.id,
                        memory_used=max(taken, loaded.model_bytes),
                        gpu_layers=num_on_gpus,
                        context_length=loaded.context_length,
                    )
                )
                devices |= {device for device, count in loaded.layers.items() if count}
        return StatusResponse(models, self._memory(), sorted(devices))

    def _memory(self) -> MemoryInfo:
        main, gpus = self._inference.models.usage(), self._inference.models.gpu_usage().values()
        total_ram, total_vram = (sum(usage.limit_bytes or 0 for usage in usages) for usages in ([main], gpus))
        used_vram = sum(usage.taken_bytes for usage in gpus)
        return MemoryInfo(
            total_ram=max(0, total_ram),
            used_ram=main.taken_bytes,
            available_ram=max(0, total_ram - main.taken_bytes),
            total_vram=max(0, total_vram),
            used_vram=used_vram,
            available_vram=max(0, total_vram - used_vram),
        )

    async def pull(self, request: PullRequest, scope: Scope) -> Reply:
        name = f"{request.repo}:{request.quantization}" if request.quantization else request.repo
        async with aclosing(self._store.pull(name)) as reported:
            async for each in reported:
                if each.digest is not None:
                    yield PullProgress(each.file or "", each.completed or 0, each.total or 0)
        yield PullProgress(done=True)

    async def unload(self, request: UnloadRequest, scope: Scope) -> UnloadResponse:
        scope["state"]["access"].model = request.model
        if not await self._inference.models.unload(request.model):
            raise ModelInUse(f"the model {request.model!r} is in use", param="model")
        return UnloadResponse(True)

    async def delete(self, request: DeleteRequest, scope: Scope) -> DeleteResponse:
        await self._store.remove(request.model)
        return DeleteResponse(True)

    def _infos(self) -> Iterator[ModelInfo]:
        for model in self._inference.models.catalog.models():
            facts = model.facts
            if self._inference.models.answers(model):
                yield ModelInfo(
                    name=model.id,
                    file=next(iter(model.paths), ""),
                    quantization=(facts and facts.quantization) or "",
                    size_bytes=model.size_bytes,
                    model_name=(facts and facts.name) or "",
                    architecture=(facts and facts.architecture) or "",
                    context_length=(facts and facts.context_length) or 0,
                    format="gguf",
                    display_name=model.id,
                )

    async def _events(
        self, model: str, prompt: Prompt, given: GenerateParams | None, key: bytes, scope: Scope
    ) -> AsyncGenerator[Event, None]:
        generation = Generation(
            id=f"grpc-{os.urandom(12).hex()}",
            model=model,
            prompt=prompt,
            tenant=scope["state"]["tenant"],
            encryption_key=secret(key),
            **params(given or GenerateParams()),
        )
        async with aclosing(observed(scope, model, self._inference.generate(generation))) as batches:
            async for batch in batches:
                for event in batch:
                    yield event


def methods(inference: Inference, settings: Settings) -> dict[str, Method]:
    spindll = Spindll(inference, settings)
    return {
        "/spindll.Spindll/Generate": Method(GenerateRequest, spindll.generate),
        "/spindll.Spindll/Chat": Method(ChatRequest, spindll.chat),
        "/spindll.Spindll/Prefill": unary(PrefillRequest, spindll.prefill),
        "/spindll.Spindll/Pull": Method(PullRequest, spindll.pull, needed_scope="admin"),
        "/spindll.Spindll/List": Method(ListRequest, spindll.list),
        "/spindll.Spindll/Load": unary(LoadRequest, spindll.load),
        "/spindll.Spindll/Unload": unary(UnloadRequest, spindll.unload, "admin"),
        "/spindll.Spindll/Delete": unary(DeleteRequest, spindll.delete, "admin"),
        "/spindll.Spindll/Status": unary(StatusRequest, spindll.status),
    }


def _check_options(request: LoadRequest) -> None:
    if request.gpu_layers not in (-1, 0):
        raise Unsupported("gpu_layers: it is set for all models, with --gpu-layers", param="gpu_layers")
    if request.priority not in _PRIORITIES:
        raise RequestError(f"priority: there is no {request.priority}", param="priority")
    if request.idle_reload_secs:
        message = "idle_reload_secs: a model that has left comes back when it is asked for"
        raise Unsupported(message, param="idle_reload_secs")


def _usage(event: Finished) -> UsageStats:
    usage, seconds = event.usage, event.timings.decode_seconds
    speed = usage.completion_tokens / seconds if seconds > 0 else 0.0
    return UsageStats(usage.prompt_tokens, usage.completion_tokens, speed, usage.cached_tokens, usage.reasoning_tokens)
