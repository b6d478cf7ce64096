"""The generated binding equals the ctypes layer of the pinned llama-cpp-python, field by field."""

import ctypes
from pathlib import Path

import pytest

from build import binding
from shimmy.worker.llama import abi, libllama

pytestmark = pytest.mark.model
LAYER = libllama.FOLDER.resolve().parent / "llama_cpp"


def test_the_committed_binding_is_what_the_generator_writes() -> None:
    assert binding.generate(LAYER, libllama.FOLDER) == Path(abi.__file__).read_text()


@pytest.mark.parametrize("name", binding.STRUCTS)
def test_struct_layouts_equal_the_layers(name: str) -> None:
    theirs, ours = getattr(binding.load_layer(LAYER, libllama.FOLDER), name), getattr(abi, name)
    assert ctypes.sizeof(ours) == ctypes.sizeof(theirs)
    for field, _ in theirs._fields_:
        assert getattr(ours, field).offset == getattr(theirs, field).offset, field
        assert getattr(ours, field).size == getattr(theirs, field).size, field


def test_every_prototype_is_exported() -> None:
    for name in abi.PROTOTYPES:
        assert getattr(libllama.llama(), name)
    for name in libllama._GGML_PROTOTYPES:
        assert getattr(libllama.ggml(), name)
