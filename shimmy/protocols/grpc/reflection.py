"""grpc.reflection, v1 and v1alpha: which services there are and what their messages look like, for tools like grpcurl
(github.com/grpc/grpc/blob/master/doc/server-reflection.md)."""

from collections.abc import Iterator
from functools import cache
from typing import Annotated

import msgspec
from starlette.types import Scope

from shimmy.protocols.grpc.descriptors import FILES
from shimmy.protocols.grpc.methods import Method, Reply
from shimmy.protocols.grpc.schema import BYTES, INT32, STRING, Field, decode
from shimmy.protocols.grpc.status import INVALID_ARGUMENT, NOT_FOUND


class ExtensionRequest(msgspec.Struct, frozen=True):
    containing_type: Annotated[str, Field(1, STRING)] = ""
    extension_number: Annotated[int, Field(2, INT32)] = 0


_ASKED = "message_request"
_TOLD = "message_response"


class ServerReflectionRequest(msgspec.Struct, frozen=True):
    host: Annotated[str, Field(1, STRING)] = ""
    file_by_filename: Annotated[str | None, Field(3, STRING, _ASKED)] = None
    file_containing_symbol: Annotated[str | None, Field(4, STRING, _ASKED)] = None
    file_containing_extension: Annotated[ExtensionRequest | None, Field(5, ExtensionRequest, _ASKED)] = None
    all_extension_numbers_of_type: Annotated[str | None, Field(6, STRING, _ASKED)] = None
    list_services: Annotated[str | None, Field(7, STRING, _ASKED)] = None


class FileDescriptorResponse(msgspec.Struct, frozen=True):
    file_descriptor_proto: Annotated[list[bytes], Field(1, BYTES)] = []


class ExtensionNumberResponse(msgspec.Struct, frozen=True):
    base_type_name: Annotated[str, Field(1, STRING)] = ""
    extension_number: Annotated[list[int], Field(2, INT32)] = []


class ServiceResponse(msgspec.Struct, frozen=True):
    name: Annotated[str, Field(1, STRING)] = ""


class ListServiceResponse(msgspec.Struct, frozen=True):
    service: Annotated[list[ServiceResponse], Field(1, ServiceResponse)] = []


class ErrorResponse(msgspec.Struct, frozen=True):
    error_code: Annotated[int, Field(1, INT32)] = 0
    error_message: Annotated[str, Field(2, STRING)] = ""


class ServerReflectionResponse(msgspec.Struct, frozen=True):
    valid_host: Annotated[str, Field(1, STRING)] = ""
    original_request: Annotated[ServerReflectionRequest | None, Field(2, ServerReflectionRequest)] = None
    file_descriptor_response: Annotated[FileDescriptorResponse | None, Field(4, FileDescriptorResponse, _TOLD)] = None
    all_extension_numbers_response: Annotated[
        ExtensionNumberResponse | None, Field(5, ExtensionNumberResponse, _TOLD)
    ] = None
    list_services_response: Annotated[ListServiceResponse | None, Field(6, ListServiceResponse, _TOLD)] = None
    error_response: Annotated[ErrorResponse | None, Field(7, ErrorResponse, _TOLD)] = None


# Of google/protobuf/descriptor.proto, what has a name that can be asked for.


class Named(msgspec.Struct, frozen=True):
    """A field, an enum's value, or a method."""

    name: Annotated[str, Field(1, STRING)] = ""


class EnumDescriptor(Named, frozen=True):
    value: Annotated[list[Named], Field(2, Named)] = []


class NestedDescriptor(Named, frozen=True):
    """A message within a message; none of ours has more within."""

    field: Annotated[list[Named], Field(2, Named)] = []


class MessageDescriptor(NestedDescriptor, frozen=True):
    nested_type: Annotated[list[NestedDescriptor], Field(3, NestedDescriptor)] = []
    enum_type: Annotated[list[EnumDescriptor], Field(4, EnumDescriptor)] = []


class ServiceDescriptor(Named, frozen=True):
    method: Annotated[list[Named], Field(2, Named)] = []


class FileDescriptor(msgspec.Struct, frozen=True):
    package: Annotated[str, Field(2, STRING)] = ""
    message_type: Annotated[list[MessageDescriptor], Field(4, MessageDescriptor)] = []
    enum_type: Annotated[list[EnumDescriptor], Field(5, EnumDescriptor)] = []
    service: Annotated[list[ServiceDescriptor], Field(6, ServiceDescriptor)] = []


def methods() -> dict[str, Method]:
    method = Method(ServerReflectionRequest, _inform, conversation=True)
    path = "ServerReflection/ServerReflectionInfo"
    return {f"/grpc.reflection.v1.{path}": method, f"/grpc.reflection.v1alpha.{path}": method}


def services() -> list[str]:
    return sorted(
        f"{file.package}.{service.name}"
        for file in (decode(FileDescriptor, content) for content in FILES.values())
        for service in file.service
    )


@cache
def symbols() -> dict[str, str]:
    """The file of each full name."""
    return {name: path for path, content in FILES.items() for name in _names(decode(FileDescriptor, content))}


def _names(file: FileDescriptor) -> Iterator[str]:
    for service in file.service:
        yield f"{file.package}.{service.name}"
        yield from (f"{file.package}.{service.name}.{method.name}" for method in service.method)
    for enum in file.enum_type:
        yield from _enum_names(file.package, enum)
    for message in file.message_type:
        name = f"{file.package}.{message.name}"
        yield name
        yield from (f"{name}.{field.name}" for field in message.field)
        for nested in message.nested_type:
            yield f"{name}.{nested.name}"
            yield from (f"{name}.{nested.name}.{field.name}" for field in nested.field)
        for enum in message.enum_type:
            yield from _enum_names(name, enum)


def _enum_names(scope: str, enum: EnumDescriptor) -> Iterator[str]:
    """Values are siblings of their enum, as in C++."""
    yield f"{scope}.{enum.name}"
    yield from (f"{scope}.{value.name}" for value in enum.value)


async def _inform(request: ServerReflectionRequest, scope: Scope) -> Reply:
    match request:
        case ServerReflectionRequest(file_by_filename=str(path)):
            yield _files(request, path, path)
        case ServerReflectionRequest(file_containing_symbol=str(symbol)):
            yield _files(request, symbols().get(symbol, ""), symbol)
        case ServerReflectionRequest(file_containing_extension=ExtensionRequest(containing_type=name)):
            yield _error(request, NOT_FOUND, f"{name} has no extensions")
        case ServerReflectionRequest(all_extension_numbers_of_type=str(name)) if name in symbols():
            told = ExtensionNumberResponse(name)
            yield ServerReflectionResponse(request.host, request, all_extension_numbers_response=told)
        case ServerReflectionRequest(all_extension_numbers_of_type=str(name)):
            yield _error(request, NOT_FOUND, f"there is no {name}")
        case ServerReflectionRequest(list_services=str()):
            listed = ListServiceResponse([ServiceResponse(name) for name in services()])
            yield ServerReflectionResponse(request.host, request, list_services_response=listed)
        case _:
            yield _error(request, INVALID_ARGUMENT, "nothing is asked that is known here")


def _files(request: ServerReflectionRequest, path: str, what: str) -> ServerReflectionResponse:
    """None of ours imports another."""
    if path not in FILES:
        return _error(request, NOT_FOUND, f"there is no {what}")
    told = FileDescriptorResponse([FILES[path]])
    return ServerReflectionResponse(request.host, request, file_descriptor_response=told)


def _error(request: ServerReflectionRequest, code: int, message: str) -> ServerReflectionResponse:
    return ServerReflectionResponse(request.host, request, error_response=ErrorResponse(code, message))
