"""Writes shimmy/protocols/grpc/descriptors.py: what gRPC's reflection tells of our services, as Google's compiler makes
it from spindll.proto, and for health and reflection as gRPC's own packages have it.

    python -m build.descriptors
"""

import base64
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

FOLDER = Path(__file__).parents[1] / "shimmy" / "protocols" / "grpc"
TARGET = FOLDER / "descriptors.py"

_HEADER = '''"""The services' descriptors (google.protobuf.FileDescriptorProto), by the names of their files. Written by
build/descriptors.py; a test compares."""

from base64 import b64decode

FILES = {
'''
_LINE_CHARS = 100


def files() -> list[FileDescriptorProto]:
    """Under the names that gRPC's own repositories give them."""
    spindll = compiled("spindll.proto")
    health = parsed(health_pb2.DESCRIPTOR.serialized_pb, "grpc/health/v1/health.proto")
    old = parsed(reflection_pb2.DESCRIPTOR.serialized_pb, "grpc/reflection/v1alpha/reflection.proto")
    return [spindll, health, successor(old), old]


def compiled(name: str) -> FileDescriptorProto:
    with tempfile.NamedTemporaryFile(suffix=".pb") as output:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={FOLDER}"]
        subprocess.run([*command, f"--descriptor_set_out={output.name}", name], check=True)
        (file,) = FileDescriptorSet.FromString(Path(output.name).read_bytes()).file
    return file


def parsed(content: bytes, name: str) -> FileDescriptorProto:
    file = FileDescriptorProto.FromString(content)
    file.name = name
    return file


def successor(old: FileDescriptorProto) -> FileDescriptorProto:
    """v1 of reflection, which differs from v1alpha in its names, and in that it is not deprecated."""
    file = FileDescriptorProto()
    text_format.Parse(text_format.MessageToString(old).replace("v1alpha", "v1"), file)
    file.options.ClearField("deprecated")
    return file


def source() -> str:
    """The whole module."""
    entries = []
    for file in files():
        text = base64.b64encode(file.SerializeToString(deterministic=True)).decode()
        lines = (text[at : at + _LINE_CHARS] for at in range(0, len(text), _LINE_CHARS))
        quoted = "\n".join(f'        "{line}"' for line in lines)
        entries.append(f'    "{file.name}": b64decode(\n{quoted}\n    ),\n')
    return _HEADER + "".join(entries) + "}\n"


if __name__ == "__main__":
    TARGET.write_text(source())
