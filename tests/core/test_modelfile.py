"""What layers of Ollama's manifests say, however they are written."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.modelfile import MAX_TEXT_BYTES, NOTHING, Kind, Layer, Own, Turn, kind_of, read_own
from shimmy.core.request import Sampling


def own(folder: Path, **contents: Any) -> Own:
    """Layers by their kind: texts, or what becomes JSON."""
    kinds: list[Kind] = ["adapter", "license", "messages", "params", "system"]
    layers = []
    for kind in kinds:
        if kind in contents:
            content = contents[kind]
            path = folder / f"{kind}-{abs(hash(repr(content)))}"
            path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
            layers.append(Layer(kind, str(path)))
    return read_own(layers)


def test_nothing_is_nothing(tmp_path: Path) -> None:
    assert own(tmp_path) is NOTHING


def test_what_layers_say(tmp_path: Path) -> None:
    params = {"temperature": 0.6, "repeat_penalty": 1.1, "num_ctx": 4096, "num_predict": 77, "stop": ["</s>", "User:"]}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It's a me!"}]
    found = own(tmp_path, params=params, messages=messages, system=b"Be Mario.", license=b"MIT", adapter=b"GGUF")
    assert found.sampling == {"temperature": 0.6, "repetition_penalty": 1.1}
    assert (found.stop, found.context_length, found.max_tokens) == (("</s>", "User:"), 4096, 77)
    assert found.messages == (Turn("user", "Hi"), Turn("assistant", "It's a me!"))
    assert found.system == "Be Mario."
    assert [Path(path).read_bytes() for path in (*found.licenses, *found.adapters)] == [b"MIT", b"GGUF"]


def test_values_that_are_none_of_their_field_are_left_out(tmp_path: Path) -> None:
    params = {
        "temperature": "hot",
        "top_k": -7,
        "top_p": 2,
        "num_ctx": 0,
        "num_predict": -1,
        "stop": [1],
        "mirostat": 1,
    }
    found = own(tmp_path, params=params)
    assert found.sampling == {"mirostat": 1}
    assert (found.stop, found.context_length, found.max_tokens) == ((), None, None)


@pytest.mark.parametrize("stop", ["</s>", ["</s>", ""]])
def test_one_stop_string_needs_no_list(tmp_path: Path, stop: Any) -> None:
    assert own(tmp_path, params={"stop": stop}).stop == ("</s>",)


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ({"params": [1]}, "its params cannot be read: Expected `object`"),
        ({"params": b"["}, "its params cannot be read"),
        ({"params": b"[" * 100_000}, "its params cannot be read"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "its messages cannot be read"),
        ({"messages": [{"role": "user", "content": "x"}] * 1001}, "more than 1000"),
        ({"system": b"x" * (MAX_TEXT_BYTES + 1)}, "its system cannot be read: it is longer than"),
    ],
)
def test_layers_that_cannot_be_read_are_named(tmp_path: Path, contents: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        own(tmp_path, **contents)


def test_a_layer_that_is_not_there_is_named(tmp_path: Path) -> None:
    for kind in ("adapter", "system"):
        with pytest.raises(ValueError, match=f"its {kind} cannot be read: No such file"):
            read_own([Layer(kind, str(tmp_path / "none"))])


VALUES = st.none() | st.floats() | st.integers() | st.text() | st.lists(st.text())


@given(st.dictionaries(st.sampled_from(["temperature", "top_k", "seed", "stop", "num_ctx"]), VALUES))
def test_whatever_is_there_makes_a_valid_sampling(tmp_path_factory: pytest.TempPathFactory, params: Any) -> None:
    found = own(tmp_path_factory.getbasetemp(), params=msgspec.json.encode(params))
    sampling = Sampling().with_own(found.sampling)
    assert msgspec.convert(msgspec.to_builtins(sampling), Sampling) == sampling


def test_own_values_hold_against_those_of_the_file_and_give_way_to_the_request() -> None:
    own = {"temperature": 0.8, "top_k": 10, "presence_penalty": 1.5}
    asked = Sampling.of(top_k=40, presence_penalty=0.0).with_own(own)
    assert (asked.temperature, asked.top_k, asked.presence_penalty) == (0.8, 40, 0.0)
    assert asked.or_else({"temperature": 0.1, "top_k": 1, "top_p": 0.5}) == Sampling(top_p=0.5, explicit=asked.explicit)


def test_kinds() -> None:
    assert kind_of("application/vnd.ollama.image.params") == "params"
    for other in ("params", "application/vnd.ollama.image.template", "application/vnd.ollama.image.projector", ""):
        assert kind_of(other) is None
