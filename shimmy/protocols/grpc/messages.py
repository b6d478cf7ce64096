"""Spindll's messages, as spindll.proto has them; a test compares. Those that are never sent are left out."""

from typing import Annotated

import msgspec

from shimmy.protocols.grpc.schema import BOOL, BYTES, ENUM, FLOAT, INT32, STRING, UINT32, UINT64, Field


class GenerateParams(msgspec.Struct, frozen=True):
    temperature: Annotated[float | None, Field(1, FLOAT)] = None
    top_p: Annotated[float | None, Field(2, FLOAT)] = None
    top_k: Annotated[int | None, Field(3, INT32)] = None
    max_tokens: Annotated[int | None, Field(4, INT32)] = None
    stop: Annotated[list[str], Field(5, STRING)] = []
    seed: Annotated[int | None, Field(6, UINT64)] = None


class Message(msgspec.Struct, frozen=True):
    role: Annotated[str, Field(1, STRING)] = ""
    content: Annotated[str, Field(2, STRING)] = ""


class GenerateRequest(msgspec.Struct, frozen=True):
    model: Annotated[str, Field(1, STRING)] = ""
    prompt: Annotated[str, Field(2, STRING)] = ""
    params: Annotated[GenerateParams | None, Field(3, GenerateParams)] = None


class ChatRequest(msgspec.Struct, frozen=True):
    model: Annotated[str, Field(1, STRING)] = ""
    messages: Annotated[list[Message], Field(2, Message)] = []
    params: Annotated[GenerateParams | None, Field(3, GenerateParams)] = None
    encryption_key: Annotated[bytes, Field(7, BYTES)] = b""


class PrefillRequest(msgspec.Struct, frozen=True):
    model: Annotated[str, Field(1, STRING)] = ""
    messages: Annotated[list[Message], Field(2, Message)] = []
    encryption_key: Annotated[bytes, Field(3, BYTES)] = b""


class PrefillResponse(msgspec.Struct, frozen=True):
    tokens_cached: Annotated[int, Field(1, UINT32)] = 0


class UsageStats(msgspec.Struct, frozen=True):
    prompt_tokens: Annotated[int, Field(1, INT32)] = 0
    completion_tokens: Annotated[int, Field(2, INT32)] = 0
    tokens_per_second: Annotated[float, Field(3, FLOAT)] = 0.0
    cached_tokens: Annotated[int, Field(100, INT32)] = 0
    reasoning_tokens: Annotated[int, Field(101, INT32)] = 0


class GenerateResponse(msgspec.Struct, frozen=True):
    token: Annotated[str, Field(1, STRING)] = ""
    done: Annotated[bool, Field(2, BOOL)] = False
    usage: Annotated[UsageStats | None, Field(3, UsageStats)] = None
    finish_reason: Annotated[str, Field(100, STRING)] = ""


class ChatResponse(msgspec.Struct, frozen=True):
    token: Annotated[str, Field(1, STRING)] = ""
    done: Annotated[bool, Field(2, BOOL)] = False
    usage: Annotated[UsageStats | None, Field(3, UsageStats)] = None
    finish_reason: Annotated[str, Field(100, STRING)] = ""
    reasoning: Annotated[str, Field(101, STRING)] = ""


class PullRequest(msgspec.Struct, frozen=True):
    repo: Annotated[str, Field(1, STRING)] = ""
    quantization: Annotated[str, Field(2, STRING)] = ""


class PullProgress(msgspec.Struct, frozen=True):
    file: Annotated[str, Field(1, STRING)] = ""
    downloaded: Annotated[int, Field(2, UINT64)] = 0
    total: Annotated[int, Field(3, UINT64)] = 0
    done: Annotated[bool, Field(4, BOOL)] = False


class ListRequest(msgspec.Struct, frozen=True):
    pass


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    name: Annotated[str, Field(1, STRING)] = ""
    file: Annotated[str, Field(3, STRING)] = ""
    quantization: Annotated[str, Field(4, STRING)] = ""
    size_bytes: Annotated[int, Field(5, UINT64)] = 0
    model_name: Annotated[str, Field(8, STRING)] = ""
    architecture: Annotated[str, Field(10, STRING)] = ""
    context_length: Annotated[int, Field(11, UINT32)] = 0
    format: Annotated[str, Field(12, STRING)] = ""
    display_name: Annotated[str, Field(14, STRING)] = ""


class ListResponse(msgspec.Struct, frozen=True):
    models: Annotated[list[ModelInfo], Field(1, ModelInfo)] = []
    prefer_format: Annotated[str, Field(2, STRING)] = ""


class LoadRequest(msgspec.Struct, frozen=True):
    model: Annotated[str, Field(1, STRING)] = ""
    gpu_layers: Annotated[int, Field(2, INT32)] = 0
    priority: Annotated[int, Field(3, ENUM)] = 0
    idle_reload_secs: Annotated[int, Field(4, UINT32)] = 0


class LoadResponse(msgspec.Struct, frozen=True):
    success: Annotated[bool, Field(1, BOOL)] = False
    message: Annotated[str, Field(2, STRING)] = ""
    already_loaded: Annotated[bool, Field(3, BOOL)] = False


class UnloadRequest(msgspec.Struct, frozen=True):
    model: Annotated[str, Field(1, STRING)] = ""


class UnloadResponse(msgspec.Struct, frozen=True):
    success: Annotated[bool, Field(1, BOOL)] = False


class DeleteRequest(msgspec.Struct, frozen=True):
    model: Annotated[str, Field(1, STRING)] = ""


class DeleteResponse(msgspec.Struct, frozen=True):
    success: Annotated[bool, Field(1, BOOL)] = False


class StatusRequest(msgspec.Struct, frozen=True):
    pass


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    name: Annotated[str, Field(1, STRING)] = ""
    memory_used: Annotated[int, Field(2, UINT64)] = 0
    gpu_layers: Annotated[int, Field(3, INT32)] = 0
    context_length: Annotated[int, Field(5, UINT32)] = 0


class MemoryInfo(msgspec.Struct, frozen=True, kw_only=True):
    total_ram: Annotated[int, Field(1, UINT64)] = 0
    used_ram: Annotated[int, Field(2, UINT64)] = 0
    available_ram: Annotated[int, Field(3, UINT64)] = 0
    total_vram: Annotated[int, Field(4, UINT64)] = 0
    used_vram: Annotated[int, Field(5, UINT64)] = 0
    available_vram: Annotated[int, Field(6, UINT64)] = 0


class StatusResponse(msgspec.Struct, frozen=True):
    models: Annotated[list[LoadedModel], Field(1, LoadedModel)] = []
    memory: Annotated[MemoryInfo | None, Field(2, MemoryInfo)] = None
    devices: Annotated[list[str], Field(3, STRING)] = []
