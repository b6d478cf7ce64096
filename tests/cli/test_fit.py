"""`fit` and `bench`: what is estimated, and what is measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Invoke
from tests.fakes.gguf_writer import model
from tests.program import DEMO, DEMO_ID

pytestmark = pytest.mark.program


@pytest.mark.usefixtures("fake")
class TestFit:
    def test_longer_contexts_take_more_until_it_does_not_fit(self, invoke: Invoke, machine: Path) -> None:
        sizes: dict[str, Any] = {
            "llama.embedding_length": 64,
            "llama.block_count": 2,
            "llama.context_length": 8192,
            "llama.attention.head_count": 4,
            "llama.attention.head_count_kv": 2,
            "llama.feed_forward_length": 128,
        }
        model(**{name.replace(".", "__"): value for name, value in sizes.items()}).write(machine / "models/sized.gguf")
        result = invoke("fit", "sized", "--memory-budget", "20M", "--json")
        assert result.exit_code == 0, result.stderr
        told = json.loads(result.stdout)
        assert (told["id"], told["limit_bytes"]) == ("sized", 20 << 20)
        # Two layers, two heads of 16 numbers, keys and values, two bytes each.
        assert [(each["context_length"], each["cache_bytes"]) for each in told["contexts"]] == [
            (length, length * 2 * 2 * 16 * 2 * 2) for length in (2048, 4096, 8192)
        ]
        for each in told["contexts"]:
            parts = each["weights_bytes"] + each["cache_bytes"] + each["other_bytes"]
            assert each["total_bytes"] == parts
            assert each["fits"] == (parts <= 20 << 20)

    def test_a_table_for_people_and_contexts_of_their_own(self, invoke: Invoke) -> None:
        result = invoke("fit", "echo", "--ctx", "100", "--ctx", "200", "--memory-budget", "1G")
        heading, *rows = [line.split() for line in result.stdout.splitlines()]
        assert heading == ["CONTEXT", "WEIGHTS", "CACHE", "OTHER", "TOTAL", "FITS"]
        assert [(row[0], row[-1]) for row in rows] == [("100", "yes"), ("200", "yes")]

    def test_this_machine_has_room_for_it_or_it_is_not_known(self, invoke: Invoke) -> None:
        told = json.loads(invoke("fit", "echo", "--json").stdout)
        assert {each["fits"] for each in told["contexts"]} <= {True, None}

    @pytest.mark.parametrize(
        ("flags", "is_installed", "is_warned"),
        [
            ([], False, False),
            ([], True, True),
            (["--gpu-layers", "0"], True, False),
            (["--gpu-layers", "auto"], False, True),
            (["--device", "CUDA0"], False, True),
        ],
    )
    def test_a_gpu_that_is_wanted_and_not_there_is_told(
        self, flags: list[str], is_installed: bool, is_warned: bool, invoke: Invoke, machine: Path
    ) -> None:
        if is_installed:
            backends = machine.parent / "home" / ".local" / "share" / "shimmy" / "backends"
            backends.mkdir(parents=True)
            (backends / "libggml-cuda.so").touch()
        result = invoke("fit", "echo", "--ctx", "100", *flags)
        assert result.exit_code == 0
        assert ("there is no GPU for it; `shimmy gpu-info` says" in result.stderr) is is_warned

    @pytest.mark.parametrize(("name", "code"), [("nope", 3), ("broken", 5)])
    def test_what_cannot_be_estimated(self, invoke: Invoke, name: str, code: int) -> None:
        assert invoke("fit", name).exit_code == code


@pytest.mark.usefixtures("fake")
class TestBench:
    def test_all_figures(self, invoke: Invoke) -> None:
        result = invoke("bench", "echo", "--runs", "2", "--prompt-tokens", "5", "--max-tokens", "4", "--json")
        assert result.exit_code == 0, result.stderr
        told = json.loads(result.stdout)
        assert told["id"] == "echo" and told["load_seconds"] > 0
        assert [(run["prompt_tokens"], run["completion_tokens"]) for run in told["runs"]] == [(5, 4), (5, 4)]
        for run in told["runs"]:
            assert run["first_token_seconds"] > 0

    def test_a_table(self, invoke: Invoke) -> None:
        result = invoke("bench", "echo", "--runs", "1", "--prompt-tokens", "5", "--max-tokens", "4")
        first, headings, *rows = result.stdout.splitlines()
        assert first.startswith("echo, loaded in ") and first.endswith("1 run of 5 + 4 tokens:")
        assert headings.split() == ["MEDIAN", "LEAST", "MOST"]
        assert [row.split("  ")[0] for row in rows] == ["first token", "prompt", "answer"]

    def test_what_does_not_load(self, invoke: Invoke) -> None:
        assert invoke("bench", "nope").exit_code == 3


@pytest.mark.model
def test_the_demo_model(invoke: Invoke) -> None:
    flags = ["--model-path", str(DEMO), "--runs", "1", "--prompt-tokens", "32", "--max-tokens", "8", "--json"]
    result = invoke("bench", DEMO_ID, *flags)
    assert result.exit_code == 0, result.stderr
    [run] = json.loads(result.stdout)["runs"]
    assert (run["prompt_tokens"], run["completion_tokens"]) == (32, 8)
    assert 0 < run["first_token_seconds"] < 60
    assert run["prefill_tokens_per_second"] > 0 and run["decode_tokens_per_second"] > 0
