"""`list`: what is there, on stdout; where nothing is, stderr says where we looked."""

import json
import os
from pathlib import Path

import pytest

from shimmy.cli import fit
from shimmy.hardware.memory import Memory
from shimmy.models.facts import Inspection
from shimmy.models.header_cache import HeaderCache
from shimmy.models.scan import observe
from tests.cli.conftest import Invoke
from tests.fakes.gguf_writer import model
from tests.program import inside

pytestmark = pytest.mark.program


def test_a_table_of_models_and_of_broken_files(invoke: Invoke, machine: Path) -> None:
    model(general__file_type=3).write(machine / "models" / "Tiny_Q4.gguf")
    (machine / "models" / "cut.gguf").write_bytes(b"GGUF")
    result = invoke("list")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [line.split(maxsplit=9) for line in result.stdout.replace("models folder", "models-folder").splitlines()]
    assert rows == [
        ["NAME", "ARCH", "PARAMS", "QUANT", "CONTEXT", "SIZE", "TEMPLATE", "CAPABILITIES", "SOURCE", "STATE"],
        [
            *("cut", "-", "-", "-", "-", "4B", "-", "-", "models-folder"),
            "invalid: truncated: the header goes on to byte 24, the file has 4",
        ],
        ["tiny-q4", "llama", "2.09k", "Q4_1", "4096", "14.7kB", "chatml", "completion", "models-folder", "ok"],
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
    assert whole["template_source"] == "chatml" and cut["template_source"] is None
    assert cut["status"] == "invalid" and cut["invalid"].startswith("truncated") and cut["facts"] is None
    assert "identity" not in whole
    assert whole["fits"] in (True, None) and cut["fits"] is None


@inside("this machine")
def test_what_is_larger_than_this_machine_is_said(
    invoke: Invoke, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model().write(machine / "models" / "a.gguf")
    monkeypatch.setattr("shimmy.pool.room.system_memory", lambda: Memory(1 << 20, 1 << 20))
    fit._total.cache_clear()
    try:
        assert invoke("list").stdout.splitlines()[1].endswith("  too large for this machine")
        assert json.loads(invoke("list", "--json").stdout)[0]["fits"] is False
        assert "no" in invoke("show", "a").stdout.split("fits here")[1].splitlines()[0]
    finally:
        fit._total.cache_clear()


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


def test_the_next_list_knows_the_headers(invoke: Invoke, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine / "cache"))
    path = model("Tiny").write(machine / "models" / "a.gguf")
    os.utime(path, (1000, 1000))
    first = invoke("list", "--json").stdout
    kept = HeaderCache(str(machine / "cache" / "shimmy" / "headers")).read()
    assert [sighting.paths for sighting in kept] == [(str(path),)]
    assert invoke("list", "--json").stdout == first


def test_headers_that_are_cached_are_used(invoke: Invoke, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this one says is not in the file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine / "cache"))
    path = model("Tiny").write(machine / "models" / "a.gguf")
    os.utime(path, (1000, 1000))
    paths = (str(path),)
    cache = HeaderCache(str(machine / "cache" / "shimmy" / "headers"))
    cache.add([(observe(paths), Inspection("model", None, "as the cache says"))])
    assert "invalid: as the cache says" in invoke("list").stdout
    assert "as the cache says" not in invoke("discover").stdout
