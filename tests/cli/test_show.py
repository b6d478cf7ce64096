"""`show`: one model, from its header."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.fakes.gguf_writer import model
from tests.fakes.ollama_store import put_model

pytestmark = pytest.mark.program


def test_shows_the_header(invoke: Invoke, machine: Path) -> None:
    path = model("Tiny", tokenizer__chat_template="x").write(machine / "models" / "Tiny.gguf")
    result = invoke("show", "TINY")
    assert (result.exit_code, result.stderr) == (0, "")
    shown = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    shown = {label: value.strip() for label, value in shown.items()}
    assert shown.pop("modified")
    assert shown.pop("fits here") in ("yes", "unknown")
    assert shown == {
        "id": "tiny",
        "architecture": "llama",
        "name": "Tiny",
        "quantization": "F32",
        "num parameters": "2,088",
        "context length": "4,096",
        "num layers": "2",
        "embedding length": "8",
        "vocabulary size": "260",
        "tokenizer model": "llama",
        "pooling": "not stated",
        "capabilities": "completion",
        "sampling": "not stated",
        "feed forward length": "not stated",
        "num heads": "not stated",
        "template source": "gguf",
        "size": f"{path.stat().st_size:,} bytes",
        "source": "models folder",
        "state": "ok",
        "file": str(path),
    }


def test_says_what_the_header_does_not_state(invoke: Invoke, machine: Path) -> None:
    model(llama__context_length=None).write(machine / "m.gguf")
    assert re.search(r"^context length +not stated$", invoke("show", "m", "--model-path", "m.gguf").stdout, re.M)


def test_shows_what_the_model_has_for_sampling(invoke: Invoke, machine: Path) -> None:
    path = model(
        general__sampling__temp=0.6,
        general__sampling__top_k=20,
        general__sampling__top_p=7.0,
        general__sampling__sequence="penalties;top_k;nonsense;temperature",
    )
    path.write(machine / "m.gguf")
    shown = invoke("show", "m", "--model-path", "m.gguf").stdout
    assert re.search(r"^sampling +top_k 20, temperature 0.6, samplers penalties top_k temperature$", shown, re.M)


def test_json_is_the_entry_of_the_list(invoke: Invoke, machine: Path) -> None:
    model().write(machine / "models" / "a.gguf")
    assert [json.loads(invoke("show", "a", "--json").stdout)] == json.loads(invoke("list", "--json").stdout)


def test_an_unknown_name_is_not_found(invoke: Invoke, machine: Path) -> None:
    model().write(machine / "models" / "a.gguf")
    result = invoke("show", "b")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "shimmy: the model 'b' does not exist; there is a\n"


def test_a_broken_file_is_a_failed_model(invoke: Invoke, machine: Path) -> None:
    (machine / "cut.gguf").write_bytes(b"GGUF")
    result = invoke("show", "cut", "--model-path", "cut.gguf")
    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr.startswith("shimmy: the model 'cut' cannot be served: truncated")


def test_shows_what_comes_with_a_model_of_ollamas(
    invoke: Invoke, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(machine / "ollama"))
    content = model().write(machine / "x.bin").read_bytes()
    params = {"top_k": 7, "stop": ["</s>"]}
    put_model(machine / "ollama", "mario:latest", content, params=params, system="Be\nMario.", license="MIT")
    lines = [re.split(r"  +", line, maxsplit=1) for line in invoke("show", "mario").stdout.splitlines()]
    shown = dict(line for line in lines if len(line) == 2)
    assert (shown["comes with"], shown["own sampling"]) == ("params, system, license", "top_k 7")
    assert (shown["own stop"], shown["system"]) == ("'</s>'", "Be-Mario.")
    own = json.loads(invoke("show", "mario", "--json").stdout)["own"]
    assert (own["system"], own["sampling"], "layers" in own) == ("Be\nMario.", {"top_k": 7}, False)
