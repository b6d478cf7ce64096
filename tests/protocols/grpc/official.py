"""Google's own protobuf and grpcio as clients of our descriptors: message classes and calls, without generated code."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor

from shimmy.protocols.grpc.descriptors import FILES
from tests.server.client import Live

SPINDLL = "spindll.Spindll"
Metadata = tuple[tuple[str, str], ...]


@cache
def pool() -> Any:
    made = descriptor_pool.DescriptorPool()
    for content in FILES.values():
        made.AddSerializedFile(content)
    return made


def descriptor(path: str) -> FileDescriptor:
    found: FileDescriptor = pool().FindFileByName(path)
    return found


def message(name: str, **fields: Any) -> Any:
    """A message by its full name, or its name in Spindll's package."""
    full = name if "." in name else f"spindll.{name}"
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(full))(**fields)


def method_of(name: str, service: str = SPINDLL) -> tuple[str, str, dict[str, Any]]:
    """What kind of call a channel has to make, its path, and how its messages become bytes and back."""
    found = pool().FindServiceByName(service).FindMethodByName(name)
    kind = f"{'stream' if found.client_streaming else 'unary'}_{'stream' if found.server_streaming else 'unary'}"
    request, response = map(message_factory.GetMessageClass, (found.input_type, found.output_type))
    arguments = {"request_serializer": request.SerializeToString, "response_deserializer": response.FromString}
    return kind, f"/{service}/{name}", arguments


class Client:
    """One channel; `client("Chat")` is a call."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    def __call__(self, method: str, service: str = SPINDLL) -> Callable[..., Any]:
        kind, path, arguments = method_of(method, service)
        call: Callable[..., Any] = getattr(self.channel, kind)(path, **arguments)
        return call

    async def chat(self, prompt: str, *, metadata: Metadata = (), timeout: float | None = None, **params: Any) -> Any:
        """All messages of an answer of the model "echo"."""
        return [each async for each in self("Chat")(chat(prompt, **params), metadata=metadata, timeout=timeout)]


def chat(prompt: str, *, model: str = "echo", **params: Any) -> Any:
    turn = message("Message", role="user", content=prompt)
    return message("ChatRequest", model=model, messages=[turn], params=message("GenerateParams", **params))


@asynccontextmanager
async def connected(server: Live, **options: int) -> AsyncIterator[Client]:
    """`options` are channel arguments of gRPC without "grpc."."""
    arguments = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    arguments += [(f"grpc.{name}", value) for name, value in options.items()]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=arguments) as channel:
        yield Client(channel)
