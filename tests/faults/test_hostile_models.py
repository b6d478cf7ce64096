"""Model files that mean harm, in the folder of a real server: each is refused with a reason, or its worker dies alone,
while a sound model beside answers."""

import json
import math
import struct
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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


def real(key: str, value: float) -> Change:
    """Another value for a 32-bit floating-point number in the header."""
    return number(key, struct.unpack("<I", struct.pack("<f", value))[0])


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


def with_template(text: str) -> Change:
    """The chat template comes first, filled up so that the data stay where they have to be: at multiples of 32."""

    def entry(text: str) -> bytes:
        return gguf_writer.text("tokenizer.chat_template") + gguf_writer.typed(text)

    def change(content: bytes) -> bytes:
        num_keys = struct.unpack_from("<Q", content, 16)[0]
        added = entry(text + " " * (-len(entry(text)) % 32))
        return content[:16] + struct.pack("<Q", num_keys + 1) + added + content[24:]

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
    "heads-none": number("gemma3.attention.head_count_kv", 0),
    "head-odd": number("gemma3.attention.key_length", 15),
    "feed-forward-0": number("gemma3.feed_forward_length", 0),
    "epsilon-nan": real("gemma3.attention.layer_norm_rms_epsilon", math.nan),
    "epsilon-negative": real("gemma3.attention.layer_norm_rms_epsilon", -1.0),
    "begin-token": number("tokenizer.ggml.bos_token_id", 1 << 30),
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
# What llama.cpp makes something of all the same.
STRANGE: dict[str, Change] = {
    "context-0": number("gemma3.context_length", 0),
    "context-2-31": number("gemma3.context_length", (1 << 31) - 1),
    "rope-0": real("gemma3.rope.freq_base", 0.0),
    "rope-nan": real("gemma3.rope.freq_base", math.nan),
}
# Chat templates, which are programs: what ended other servers, or let the model's author into them.
TEMPLATES = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__['__builtins__'] }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os.environ }}",
    "loop": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "recursion": "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    "groups": "{{ " + "(" * 100_000 + ")" * 100_000 + " }}",
    "unclosed": "{% for %}",
    "wide": "{{ 'a' * 100000000000 }}",
    "no-unicode": "{{ '\\ud800' }}",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("server")
    models = folder / "models"
    models.mkdir()
    (models / DEMO.name).symlink_to(DEMO)
    tiny_models.full(models / "tiny.gguf")
    sound = (models / "tiny.gguf").read_bytes()
    (models / "template-padding.gguf").write_bytes(with_template("{{ '{:>20000000000000}'.format('x') }}")(sound))
    templates = {f"template-{name}": with_template(text) for name, text in TEMPLATES.items()}
    for name, change in (DAMAGED | STRANGE | templates).items():
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
    return ask(server, "/v1/completions", {"model": model, "prompt": prompt, "max_tokens": 2})


def ask(server: Program, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(f"{server.url}{path}", json.dumps(body).encode())
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


@pytest.mark.parametrize("name", STRANGE)
def test_a_file_that_is_only_strange_answers(server: Program, name: str) -> None:
    assert complete(server, name, [5, 6, 7])[0] == 200


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_fails_its_request_with_the_reason_and_nothing_else(server: Program, name: str) -> None:
    model = f"template-{name}"
    assert complete(server, model, [5, 6, 7])[0] == 200
    workers = server.worker_pids()
    for path in ("/v1/chat/completions", "/apply-template"):
        status, answer = ask(server, path, {"model": model, "messages": [{"role": "user", "content": "hi"}]})
        assert (status, answer["error"]["code"]) == (422, "model_invalid"), answer
        assert "template" in answer["error"]["message"] and len(answer["error"]["message"]) < 1000
    assert complete(server, model, [5, 6, 7])[0] == 200
    # Others may come meanwhile: a model whose worker died in an earlier test comes back after a while.
    assert workers and set(workers) <= set(server.worker_pids())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stops a process for one thread's memory")
def test_a_template_that_wants_all_memory_ends_its_own_process(server: Program) -> None:
    """In one step, which no count of steps prevents."""
    body = {"model": "template-padding", "messages": [{"role": "user", "content": "hi"}]}
    status, answer = ask(server, "/v1/chat/completions", body)
    assert (status, answer["error"]["code"]) == (502, "worker_lost"), answer
    assert complete(server, DEMO_ID)[0] == 200


def test_a_cache_that_is_too_small_for_all_at_once_serves_all(server: Program) -> None:
    """llama.cpp has no cell left for most of them, again and again."""
    body = {"model": "context-2-31", "max_tokens": 300, "ignore_eos": True}
    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(ask, server, "/v1/completions", body | {"prompt": [n] * 200}) for n in range(10, 16)]
    for status, answer in (each.result() for each in asked):
        assert status == 200, answer
        assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (300, "length")


def test_a_folder_is_no_model(server: Program) -> None:
    assert complete(server, "folder")[0] == 404


def test_a_vocabulary_that_cannot_spell_is_served_with_token_ids_only(server: Program) -> None:
    """llama.cpp aborts the process over a letter that has no tokens."""
    assert complete(server, "tiny", [5, 6, 7])[0] == 200
    workers = server.worker_pids()
    status, answer = complete(server, "tiny", "hi")
    assert (status, answer["error"]["param"]) == (400, "prompt")
    assert complete(server, "tiny", [5, 6, 7])[0] == 200
    # Others may come meanwhile: a model whose worker died in an earlier test comes back after a while.
    assert workers and set(workers) <= set(server.worker_pids())
