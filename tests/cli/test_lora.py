"""LoRA adapters from the command line to the answer, with the whole program."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests import program
from tests.program import DEMO, DEMO_ID, LIMIT_SECONDS, Program
from tests.worker import tiny_models
from tests.worker.lora_files import adapter

pytestmark = [pytest.mark.program, pytest.mark.model]


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    tiny_models.full(tmp_path / "models" / "base.gguf")
    tiny_models.window(tmp_path / "models" / "other.gguf")
    adapter(tmp_path / "poet.gguf", tmp_path / "models" / "base.gguf")
    adapter(tmp_path / "clerk.gguf", tmp_path / "models" / "base.gguf", seed=2)
    return tmp_path


def ask(running: Program, model: str, **fields: Any) -> Any:
    """The text of the answer, or the error."""
    body = {"model": model, "prompt": list(range(10, 30)), "max_tokens": 8, "temperature": 0, **fields}
    request = urllib.request.Request(f"{running.url}/v1/completions", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as answer:
            return json.load(answer)["choices"][0]["text"]
    except urllib.error.HTTPError as error:
        return json.load(error)["error"]


def test_several_at_load_and_by_name(machine: Path) -> None:
    flags = ["--model-path", "models/base.gguf", "--lora", "poet.gguf", "--lora", "clerk.gguf=0"]
    with program.program(machine, *flags) as running:
        told = {
            "as loaded": ask(running, "base"),
            "poet": ask(running, "base", lora=[{"name": "poet"}]),
            "number": ask(running, "base", lora=[{"id": 0, "scale": 1.0}]),
            "clerk": ask(running, "base", lora=[{"id": 1, "scale": 1.0}]),
            "half": ask(running, "base", lora=[{"name": "poet", "scale": 0.5}]),
            "none": ask(running, "base", lora=[]),
            "zero": ask(running, "base", lora=[{"name": "poet", "scale": 0}]),
        }
        assert told["as loaded"] == told["poet"] == told["number"]
        assert told["none"] == told["zero"]
        assert len({told["poet"], told["clerk"], told["half"], told["none"]}) == 4
        unknown = ask(running, "base", lora=[{"name": "x"}])
        assert (unknown["code"], unknown["param"]) == ("invalid_request", "lora[0].name")
        assert ask(running, "base", lora=[{"name": "poet", "scale": 1e9}])["param"] == "lora[0].scale"
        # They are for the model that was named, so that another one can be used beside it.
        assert ask(running, "other", lora=[{"id": 0}])["param"] == "lora[0].id"
        listed = {each["id"]: each["adapters"] for each in running.get("/v1/models")["data"]}
        assert (listed["base"], listed["other"]) == ({"poet": 1.0, "clerk": 0.0}, {})


def test_a_file_that_is_no_adapter_is_why_its_model_cannot_be_loaded(machine: Path) -> None:
    (machine / "cut.gguf").write_bytes((machine / "poet.gguf").read_bytes()[:-1000])
    (machine / "text.gguf").write_text("This is no adapter. " * 10)
    for name, reason in (("cut", "truncated"), ("text", "not a GGUF file"), ("models/other", "it is no LoRA adapter")):
        with program.program(machine, "--model-path", "models/base.gguf", "--lora", f"{name}.gguf") as running:
            error = ask(running, "base")
            assert error["code"] == "model_invalid" and reason in error["message"], error
            assert isinstance(ask(running, "other"), str)


def test_the_variables_of_the_original(machine: Path) -> None:
    base = {"SHIMMY_BASE_GGUF": str(machine / "models" / "base.gguf")}
    with program.program(machine, environment=base) as running:
        plain = ask(running, "base")
    with program.program(machine, environment={**base, "SHIMMY_LORA_GGUF": str(machine / "poet.gguf")}) as running:
        adapted, others = ask(running, "base"), ask(running, "other")
        assert ask(running, "base", lora=[]) == plain
    assert adapted != plain and isinstance(others, str)


def test_one_command(machine: Path) -> None:
    adapter(machine / "demo.gguf", DEMO)
    asked = [
        "generate",
        DEMO_ID,
        "--model-path",
        str(DEMO),
        "--prompt",
        "Hi",
        "--max-tokens",
        "8",
        "--temperature",
        "0",
    ]
    flags: list[list[str]] = [[], ["--lora", "demo.gguf=0"], ["--lora", "demo.gguf"]]
    plain, without, adapted = (program.run(*asked, *each, cwd=machine) for each in flags)
    assert plain.returncode == without.returncode == adapted.returncode == 0
    assert plain.stdout == without.stdout != adapted.stdout
    # `generate` names its model, so that adapters are for that one and no other.
    done = program.run(*asked, "--lora", "poet.gguf", cwd=machine)
    assert done.returncode == 5
    reason = "it is for models of the architecture gemma3, and this is llama"
    assert f"the adapter {machine / 'poet.gguf'} cannot be used: {reason}" in done.stderr
    assert program.run("probe", "base", "--lora", "absent.gguf", cwd=machine).returncode == 2
