"""grpcio with what the server's own reflection tells: no generated code, no .proto file."""

from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from report import report, task

channel = grpc.insecure_channel(task["url"].removeprefix("http://"))
pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
service = pool.FindServiceByName("spindll.Spindll")


def message(name: str, **fields: Any) -> Any:
    return GetMessageClass(pool.FindMessageTypeByName(f"spindll.{name}"))(**fields)


def call(name: str, request: Any) -> Any:
    method = service.FindMethodByName(name)
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    forms = {
        "request_serializer": type(request).SerializeToString,
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    return kind(f"/spindll.Spindll/{name}", **forms)(request, timeout=60)


def ask(model: str = task["model"]) -> list[Any]:
    turn = message("Message", role="user", content=task["question"])
    params = message("GenerateParams", max_tokens=60)
    params.temperature = 0
    return list(call("Chat", message("ChatRequest", model=model, messages=[turn], params=params)))


def models() -> list[str]:
    """Of a server that says of itself that it serves."""
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    return [model.name for model in call("List", message("ListRequest")).models]


def usage() -> list[int]:
    last = ask()[-1].usage
    return [last.prompt_tokens, last.completion_tokens]


def error() -> Any:
    try:
        return ask(task["unknown"])
    except grpc.RpcError as error:
        return {"class": error.code().name, "status": None, "message": error.details()}


none = "Spindll's service has none"
report(
    grpc.__version__,
    {
        "models": models,
        "chat": lambda: "".join(piece.token for piece in ask()),
        "stream": lambda: [piece.token for piece in ask() if piece.token],
        "usage": usage,
        "error": error,
    },
    absent=dict.fromkeys(("tools", "results", "schema", "embed"), none),
)
