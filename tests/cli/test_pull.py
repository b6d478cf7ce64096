"""`pull`, `rm`, `cp` and `import`, as a user runs them, with a hub on this machine."""

import json
import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.fakes.gguf_writer import GGUF, model
from tests.fakes.hub import COMMIT, Hub, noise, running_hub
from tests.program import LIMIT_SECONDS, start

pytestmark = [pytest.mark.program, pytest.mark.slow]

OLLAMA = "application/vnd.ollama.image.model"


@pytest.fixture
def hub(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub(tmp_path / "hub") as hub:
        for name, value in hub.environ.items():
            monkeypatch.setenv(name, value)
        hub.repositories["Org/Tiny-GGUF"] = {"Tiny-Q4_0.gguf": model("Tiny").encode()}
        yield hub


def names(invoke: Invoke) -> list[str]:
    return invoke("list", "--short").stdout.splitlines()


def test_a_pulled_model_is_listed_by_all_its_names(invoke: Invoke, hub: Hub, machine: Path) -> None:
    result = invoke("pull", "Org/Tiny-GGUF")
    assert re.fullmatch(r"ok: hf.co/Org/Tiny-GGUF:Q4_0 is in the store, [\d.]+kB in [\d.]+ s\n", result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    assert names(invoke) == ["hf.co/Org/Tiny-GGUF:Q4_0"]
    for name in ("org/tiny-gguf", "Org/Tiny-GGUF:Q4_0", "tiny-q4-0", "hf.co/org/tiny-gguf:latest"):
        assert json.loads(invoke("show", name, "--json").stdout)["facts"]["name"] == "Tiny"
    path = machine.parent / "home/.local/share/shimmy/store/manifests"
    (manifest,) = path.iterdir()
    assert json.loads(manifest.read_text())["provenance"] == {
        "source": "https://hf.co/Org/Tiny-GGUF",
        "pulled_at": json.loads(manifest.read_text())["provenance"]["pulled_at"],
        "revision": COMMIT,
        "license": "apache-2.0",
    }


def test_what_came_and_cannot_be_served(invoke: Invoke, hub: Hub) -> None:
    hub.repositories["Org/Cut"] = {"Cut-Q4_0.gguf": b"GGUF"}
    result = invoke("pull", "Org/Cut")
    assert result.exit_code == 0 and result.stderr.startswith("shimmy: WARNING: it cannot be served: truncated")


def test_json_has_one_object_on_each_line(invoke: Invoke, hub: Hub) -> None:
    lines = [json.loads(line) for line in invoke("pull", "Org/Tiny-GGUF", "--json").stdout.splitlines()]
    assert lines[0]["status"] == "pulling manifest" and lines[-1]["status"] == "success"
    assert {line["total"] for line in lines if "digest" in line} == {len(model("Tiny").encode())}


def test_json_says_what_it_failed_with(invoke: Invoke, hub: Hub) -> None:
    result = invoke("pull", "Org/Nothing", "--json")
    last = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == 3 and last["status"] == "failed"
    assert (last["error"]["code"], last["error"]["param"]) == ("model_not_found", "model")


def test_what_cannot_be_pulled(invoke: Invoke, hub: Hub) -> None:
    for name, exit_code, said in (
        ("Org/Nothing", 3, "has no Org/Nothing"),
        ("Org/Tiny-GGUF:Q8_0", 3, "there is Q4_0"),
        ("../../etc/passwd", 1, "is no name of a model"),
        ("evil.example/library/tiny", 1, "SHIMMY_PULL_HOSTS"),
    ):
        result = invoke("pull", name)
        assert (result.exit_code, result.stdout) == (exit_code, "")
        assert said in result.stderr and "Traceback" not in result.stderr


def test_a_model_under_a_further_name_and_away_again(invoke: Invoke, hub: Hub, machine: Path) -> None:
    invoke("pull", "Org/Tiny-GGUF")
    assert invoke("cp", "org/tiny-gguf", "mine:1").stdout == "ok: org/tiny-gguf is also called mine:1\n"
    assert invoke("show", "mine:1").exit_code == 0
    assert invoke("rm", "org/tiny-gguf").stdout == "ok: removed org/tiny-gguf; 0B are free again\n"
    assert names(invoke) == ["mine:1"]
    assert re.fullmatch(r"ok: removed mine:1; 14.\dkB are free again\n", invoke("rm", "mine:1").stdout)
    assert names(invoke) == []
    assert invoke("rm", "mine:1").exit_code == 3


def test_models_of_others_are_copied_by_name_and_never_removed(invoke: Invoke, machine: Path) -> None:
    path = model().write(machine / "models" / "own.gguf")
    result = invoke("rm", "own")
    assert result.exit_code == 1 and f"at {path}; remove it there" in result.stderr
    invoke("cp", "own", "other")
    assert names(invoke) == ["own"] and invoke("show", "other").exit_code == 0
    assert invoke("rm", "other").exit_code == 0
    assert path.exists() and invoke("show", "other").exit_code == 3


def test_a_file_is_imported_in_place(invoke: Invoke, machine: Path) -> None:
    path = model().write(machine / "elsewhere" / "Some model.gguf")
    assert invoke("import", str(path)).stdout == "ok: some-model\n"
    assert names(invoke) == ["some-model"]
    path.write_bytes(path.read_bytes() + b"more")
    assert names(invoke) == []
    assert "is another one than it was" in invoke("list").stdout
    path.unlink()
    assert "No such file" in invoke("list").stdout
    assert invoke("rm", "some-model").exit_code == 0
    assert invoke("list").stdout == ""


def test_what_is_no_model_is_not_imported(invoke: Invoke, machine: Path) -> None:
    GGUF({"general.architecture": "clip", "general.type": "mmproj"}).write(machine / "mmproj.gguf")
    (machine / "cut.gguf").write_bytes(b"GGUF")
    for name in ("mmproj.gguf", "cut.gguf"):
        assert invoke("import", name).exit_code == 5
    assert invoke("import").exit_code == invoke("import", "cut.gguf", "--from", "ollama").exit_code == 2


def test_the_models_of_other_programs_are_imported_in_place(
    invoke: Invoke, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = machine.parent / "home"
    monkeypatch.setenv("HF_HUB_CACHE", str(home / ".cache/huggingface/hub"))
    blob = model("a").write(home / ".ollama/models/blobs" / f"sha256-{'0' * 64}")
    manifest = home / ".ollama/models/manifests/registry.ollama.ai/library/llama3.2/1b"
    manifest.parent.mkdir(parents=True)
    layers = [{"mediaType": OLLAMA, "digest": f"sha256:{'0' * 64}", "size": blob.stat().st_size}]
    manifest.write_text(json.dumps({"layers": layers}))
    hub_file = model("b").write(home / ".cache/huggingface/hub/models--Org--B-GGUF/snapshots/abc/B-Q8_0.gguf")
    lm_file = model("c").write(home / ".lmstudio/models/org/C-GGUF/C-Q4_K_M.gguf")
    for program, name in (
        ("ollama", "llama3.2:1b"),
        ("huggingface", "hf.co/Org/B-GGUF:Q8_0"),
        ("lmstudio", "hf.co/org/C-GGUF:Q4_K_M"),
    ):
        assert invoke("import", "--from", program).stdout == f"ok: {name}\n"
    found = {each["id"]: each for each in json.loads(invoke("list", "--json").stdout)}
    assert {id: each["paths"] for id, each in found.items()} == {
        "llama3.2:1b": [str(blob)],
        "hf.co/Org/B-GGUF:Q8_0": [str(hub_file)],
        "hf.co/org/C-GGUF:Q4_K_M": [str(lm_file)],
    }
    assert {each["source"] for each in found.values()} == {"Shimmy's store"}


def test_a_full_disk_and_then_a_disk_with_room(invoke: Invoke, hub: Hub, machine: Path) -> None:
    content = noise(9 << 20)
    hub.repositories["Org/large"] = {"large-Q4_0.gguf": content}
    limit = (6 << 20, resource.RLIM_INFINITY)
    with (machine / "stderr.txt").open("w") as stderr:
        process = start(
            *("pull", "Org/large"),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
            stderr=stderr,
        )
        assert process.wait(LIMIT_SECONDS) == 1
    assert "is full; what has arrived is kept" in (machine / "stderr.txt").read_text()
    assert invoke("pull", "Org/large").exit_code == 0


def test_ctrl_c_ends_a_pull_and_the_next_one_goes_on(invoke: Invoke, hub: Hub, machine: Path) -> None:
    hub.repositories["Org/large"] = {"large-Q4_0.gguf": noise(20 << 20)}
    hub.faults.block_seconds = 0.02
    store = machine.parent / "home/.local/share/shimmy/store"
    with (machine / "stderr.txt").open("w") as stderr:
        process = start("pull", "Org/large", stderr=stderr)
        deadline = time.monotonic() + LIMIT_SECONDS
        while not any(path.stat().st_size > 40 for path in store.glob("partial/*.chunks")):
            assert process.poll() is None and time.monotonic() < deadline, (machine / "stderr.txt").read_text()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_SECONDS) == 130
    assert "Traceback" not in (machine / "stderr.txt").read_text()
    hub.faults.block_seconds = 0
    num_before = len(hub.ranges)
    assert invoke("pull", "Org/large").exit_code == 0
    assert len(hub.ranges) - num_before < 5
    assert os.listdir(store / "partial") == []
