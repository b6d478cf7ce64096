"""`list`: what is there, on stdout; where nothing is, stderr says where we looked."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.fakes.gguf_writer import model

pytestmark = pytest.mark.program


def test_a_table_of_models_and_of_broken_files(invoke: Invoke, machine: Path) -> None:
    model(general__file_type=3).write(machine / "models" / "Tiny_Q4.gguf")
    (machine / "models" / "cut.gguf").write_bytes(b"GGUF")
    result = invoke("list")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "NAME     SIZE    PARAMS  QUANT  CONTEXT  SOURCE",
        "cut      4B      -       -      -        invalid: truncated: the header goes on to byte 24, the file has 4",
        "tiny-q4  14.7kB  2.09k   Q4_1   4096     models folder",
    ]


def test_short_has_only_the_names_that_can_be_served(invoke: Invoke, machine: Path) -> None:
    model().write(machine / "models" / "b.gguf")
    model().write(machine / "models" / "a.gguf")
    (machine / "models" / "cut.gguf").write_bytes(b"GGUF")
    assert invoke("list", "--short").stdout == "a\nb\n"


def test_json_has_everything_but_the_identity(invoke: Invoke, machine: Path) -> None:
    path = model("Tiny").write(machine / "models" / "a.gguf")
    (machine / "models" / "cut.gguf").write_bytes(b"GGUF")
    whole, cut = json.loads(invoke("list", "--json").stdout)
    assert whole["id"] == "a" and whole["paths"] == [str(path)] and whole["size_bytes"] == path.stat().st_size
    assert whole["status"] == "ok" and whole["invalid"] is None and whole["facts"]["name"] == "Tiny"
    assert cut["status"] == "invalid" and cut["invalid"].startswith("truncated") and cut["facts"] is None
    assert "identity" not in whole


def test_nothing_found_says_where_we_looked(invoke: Invoke, machine: Path) -> None:
    for flags, stdout in (([], ""), (["--short"], ""), (["--json"], "[]\n")):
        result = invoke("list", *flags)
        assert (result.exit_code, result.stdout) == (0, stdout)
        assert "no models found; put a .gguf file into one of these" in result.stderr
        assert f"models folder: {machine}/models (does not exist)" in result.stderr


def test_only_broken_files_give_an_empty_short_list_and_say_so(invoke: Invoke, machine: Path) -> None:
    (machine / "cut.gguf").write_bytes(b"GGUF")
    result = invoke("list", "--short", "--model-path", str(machine / "cut.gguf"))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "none of the 1 files found can be served" in result.stderr


def test_folders_are_repeated_or_separated(invoke: Invoke, machine: Path) -> None:
    for name in ("a", "b", "c"):
        model().write(machine / name / f"{name}.gguf")
    assert invoke("list", "--short", "--model-dirs", "a;b", "--model-dirs", "c").stdout == "a\nb\nc\n"


def test_a_folder_that_is_not_there_is_a_usage_error(invoke: Invoke) -> None:
    result = invoke("list", "--model-dirs", "absent")
    assert result.exit_code == 2
    assert "Invalid value for '--model-dirs': there is no folder 'absent'." in result.stderr


def test_no_control_character_reaches_the_terminal(invoke: Invoke, machine: Path) -> None:
    model("\x1b[31mred").write(machine / "models" / "red.gguf")
    model().write(machine / "models" / "\x1b[2J.gguf")
    for command in (("list",), ("list", "--short"), ("show", "red"), ("list", "--json")):
        result = invoke(*command)
        assert result.exit_code == 0 and "red" in result.stdout
        assert "\x1b" not in result.stdout
