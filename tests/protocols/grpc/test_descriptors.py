"""What reflection tells, the tables of fields, spindll.proto and what is answered are the same."""

import re
from typing import Any

import msgspec
import pytest

from shimmy.core.settings import Settings
from shimmy.protocols.grpc import health, messages, reflection
from shimmy.protocols.grpc.schema import BOOL, BYTES, FLOAT, INT32, STRING, UINT32, UINT64, Scalar, slots
from shimmy.protocols.grpc.services import Services
from tests.fakes.pool import fake_inference, run

pytest.importorskip("google.protobuf", reason="descriptors are read with protobuf")
pytest.importorskip("grpc", reason="the official messages are made beside grpcio's client")

from google.protobuf.descriptor import FieldDescriptor

from tests.protocols.grpc import official

PACKAGES = {messages: "spindll", health: "grpc.health.v1", reflection: "grpc.reflection.v1"}
KINDS: dict[int, Scalar] = {
    FieldDescriptor.TYPE_BOOL: BOOL,
    FieldDescriptor.TYPE_BYTES: BYTES,
    FieldDescriptor.TYPE_ENUM: INT32,
    FieldDescriptor.TYPE_FLOAT: FLOAT,
    FieldDescriptor.TYPE_INT32: INT32,
    FieldDescriptor.TYPE_STRING: STRING,
    FieldDescriptor.TYPE_UINT32: UINT32,
    FieldDescriptor.TYPE_UINT64: UINT64,
}
# Of google/protobuf/descriptor.proto, which is not one of our files.
DESCRIPTORS = re.compile("Descriptor$|^Named$")
TABLES = [
    (cls, f"{package}.{cls.__name__}")
    for module, package in PACKAGES.items()
    for cls in vars(module).values()
    if isinstance(cls, type) and issubclass(cls, msgspec.Struct) and cls.__module__ == module.__name__
    if not DESCRIPTORS.search(cls.__name__)
]


def test_the_module_is_what_the_script_writes() -> None:
    pytest.importorskip("grpc_tools", reason="spindll.proto is compiled with grpcio-tools")
    pytest.importorskip("grpc_health", reason="its descriptor is taken from grpcio-health-checking")
    pytest.importorskip("grpc_reflection", reason="its descriptor is taken from grpcio-reflection")
    from build import descriptors

    assert descriptors.TARGET.read_text() == descriptors.source(), "run python -m build.descriptors"


@pytest.mark.parametrize(("cls", "name"), TABLES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_table_is_what_its_descriptor_says(cls: type[msgspec.Struct], name: str) -> None:
    """Fields may be left out where they are never looked at."""
    described = {field.number: field for field in official.pool().FindMessageTypeByName(name).fields}
    for number, slot in slots(cls).items():
        field = described[number]
        assert slot.name == field.name
        check_label(slot.default, field)
        kind = slot.field.kind
        if isinstance(kind, Scalar):
            assert kind is KINDS[field.type]
        else:
            of_map = field.message_type.GetOptions().map_entry
            found = field.message_type.fields_by_name["value"] if of_map else field
            assert found.message_type.name == kind.__name__
        group = field.containing_oneof
        assert slot.field.oneof == (group.name if group and not group.name.startswith("_") else None)


def check_label(default: Any, field: Any) -> None:
    """Whether a table's default says the same of presence and number as the descriptor."""
    if field.is_repeated:
        assert default == ({} if field.message_type and field.message_type.GetOptions().map_entry else [])
    elif field.has_presence:
        assert default is None
    else:
        assert default == field.default_value


def test_every_method_is_answered_and_no_other() -> None:
    async def test() -> None:
        async with fake_inference() as inference:
            services = Services(inference, Settings(), lambda: "ready")
        answered = services._methods
        described = {}
        for name in reflection.services():
            for method in official.pool().FindServiceByName(name).methods:
                described[f"/{name}/{method.name}"] = method
        assert answered.keys() == described.keys()
        for path, method in answered.items():
            assert method.request.__name__ == described[path].input_type.name
            assert method.conversation == described[path].client_streaming

    run(test())


def file_of(symbol: str) -> str:
    """Google's pool finds methods by another way than all else."""
    try:
        return str(official.pool().FindFileContainingSymbol(symbol).name)
    except KeyError:
        return str(official.pool().FindMethodByName(symbol).containing_service.file.name)


def test_every_symbol_leads_to_its_file() -> None:
    for symbol, path in reflection.symbols().items():
        assert file_of(symbol) == path
    for expected in (
        "spindll.Spindll.Chat",
        "spindll.ChatRequest.params",
        "spindll.PRIORITY_LOW",
        "grpc.health.v1.HealthCheckResponse.ServingStatus",
        "grpc.health.v1.HealthCheckResponse.SERVING",
        "grpc.health.v1.HealthListResponse.StatusesEntry.key",
    ):
        assert expected in reflection.symbols()
