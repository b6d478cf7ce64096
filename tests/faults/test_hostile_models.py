"""Model files that mean harm, in the folder of a real server: each is refused with a reason, or its worker dies alone,
while a sound model beside answers."""

import json
import struct
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fakes import gguf_writer
from tests.fakes.gguf_writer import Typed
from tests.program import DEMO, DEMO_ID, LIMIT_SECONDS, Program, program
from tests.worker import tiny_models

pytestmark = [pytest.mark.model, pytest.mark.program, pytest.mark.slow]

Change = Callable[[bytes], bytes]
_KEY_TYPE_BYTES = 4


def number(key: str, value: int) -> Change:
    """Another value for a 32-bit number in the header."""

    def change(content: bytes) -> bytes:
        at = content.index(key.encode()) + len(key) + _KEY_TYPE_BYTES
        return content[:at] + struct.pack("<I", value) + content[at + 4 :]

    return change


def put(at: int, data: bytes) -> Change:
    return lambda content: content[:at] + data + content[at + len(data) :]


def swap(old: bytes, new: bytes) -> Change:
    return lambda content: content.replace(old, new)


def tensor(offset: int, data: bytes) -> Change:
    """In the entry of the first tensor, so many bytes behind its name: 4 for the number of dimensions, 8 for each of
    two, 4 for the type, 8 for the place."""

    def change(content: bytes) -> bytes:
        at = content.index(b"token_embd.weight") + len(b"token_embd.weight") + offset
        return content[:at] + data + content[at + len(data) :]

    return change


HUGE = struct.pack("<Q", 1 << 60)
# What is wrong with a sound file of 270 kB.
DAMAGED: dict[str, Change] = {
    "empty": lambda content: b"",
    "no-gguf": lambda content: b"This is no model. " * 1000,
    "header-cut": lambda content: content[:20],
    "keys-cut": lambda content: content[:300],
    "tensors-cut": lambda content: content[: len(content) // 2],
    "last-page-cut": lambda content: content[:-4096],
    "version": put(4, struct.pack("<I", 99)),
    "tensors-2-60": put(8, HUGE),
    "keys-2-60": put(16, HUGE),
    "string-2-62": put(24, struct.pack("<Q", 1 << 62)),
    "architecture": swap(b"gemma3", b"gemmaX"),
    "blocks-1000": number("gemma3.block_count", 1000),
    "blocks-2-31": number("gemma3.block_count", 1 << 31),
    "width-0": number("gemma3.embedding_length", 0),
    "heads-0": number("gemma3.attention.head_count", 0),
    "heads-2-31": number("gemma3.attention.head_count", 1 << 31),
    "heads-odd": number("gemma3.attention.head_count_kv", 3),
    "end-token": number("tokenizer.ggml.eos_token_id", 1 << 30),
    "tensor-dimensions": tensor(0, struct.pack("<I", 99)),
    "tensor-shape": tensor(4, HUGE),
    "tensor-type": tensor(20, struct.pack("<I", 9999)),
    "tensor-place": tensor(24, HUGE),
}
# What a header of another sound model says.
SAID: dict[str, dict[str, Any]] = {
    "no-tensors-of-layers": {},
    "nested-array": {"general__x": Typed("arr", [], "arr", 1 << 40)},
    "huge-array": {"general__x": Typed("arr", [], "u8", 1 << 61)},
    "scores-missing": {"tokenizer__ggml__scores": [0.0]},
    "byte-token": {"tokenizer__ggml__tokens": ["<0x-1>"] * 4 + [f"<0x{byte:02X}>" for byte in range(255)] + ["<0x-1>"]},
    "alignment": {"general__alignment": 3},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("server")
    models = folder / "models"
    models.mkdir()
    (models / DEMO.name).symlink_to(DEMO)
    tiny_models.full(models / "tiny.gguf")
    sound = (models / "tiny.gguf").read_bytes()
    for name, change in DAMAGED.items():
        damaged = change(sound)
        assert damaged != sound
        (models / f"{name}.gguf").write_bytes(damaged)
    for name, said in SAID.items():
        gguf_writer.model(**said).write(models / f"{name}.gguf")
    (models / "folder.gguf").mkdir()
    with program(folder, "--ctx", "512") as running:
        yield running
        assert complete(running, DEMO_ID)[0] == 200


def complete(server: Program, model: str, prompt: Any = "hi") -> tuple[int, Any]:
    body = {"model": model, "prompt": prompt, "max_tokens": 2}
    request = urllib.request.Request(f"{server.url}/v1/completions", json.dumps(body).encode())
    request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("name", [*DAMAGED, *SAID])
def test_a_file_is_refused_with_a_reason_and_nobody_else_notices(server: Program, name: str) -> None:
    status, answer = complete(server, name)
    assert (status, answer["error"]["code"]) == (422, "model_invalid"), answer
    assert len(answer["error"]["message"]) > len(name) + 20, "it does not say why"
    assert complete(server, DEMO_ID)[0] == 200


def test_a_folder_is_no_model(server: Program) -> None:
    assert complete(server, "folder")[0] == 404


def test_a_vocabulary_that_cannot_spell_is_served_with_token_ids_only(server: Program) -> None:
    """llama.cpp aborts the process over a letter that has no tokens."""
    assert complete(server, "tiny", [5, 6, 7])[0] == 200
    workers = server.worker_pids()
    status, answer = complete(server, "tiny", "hi")
    assert (status, answer["error"]["param"]) == (400, "prompt")
    assert complete(server, "tiny", [5, 6, 7])[0] == 200
    assert server.worker_pids() == workers
