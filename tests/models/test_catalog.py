"""The catalogue: what is listed, under which ids, and what a rescan reads."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimmy.core.errors import ModelInvalid, ModelNotFound
from shimmy.models.catalog import Catalog
from shimmy.models.discovery import Source
from shimmy.models.facts import inspect
from shimmy.models.folders import File, Folder, Found
from shimmy.models.listing import Change, Model
from shimmy.models.names import qualified
from shimmy.models.ollama import OllamaStore
from tests.fakes.gguf_writer import GGUF, TensorSpec, model


def catalog(*sources: Source) -> Catalog:
    made = Catalog(sources)
    made.refresh()
    return made


def folder(path: Path) -> Folder:
    return Folder("models folder", str(path))


def aged(path: Path) -> Path:
    """Written long enough ago that nobody takes it for unfinished; each time at another time."""
    status = path.stat()
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns - 10**10))
    return path


def ids(of: Catalog) -> list[str]:
    return [each.id for each in of.models()]


def test_lists_models_with_their_facts(tmp_path: Path) -> None:
    path = model("Tiny").write(tmp_path / "Tiny_Q4.gguf")
    os.utime(path, (1000, 1000))
    status = path.stat()
    [only] = catalog(folder(tmp_path)).models()
    assert only.facts and only.facts.name == "Tiny"
    assert only == Model(
        id="tiny-q4",
        paths=(str(path),),
        size_bytes=status.st_size,
        modified_unix=1000.0,
        source="models folder",
        identity=((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns),),
        facts=only.facts,
        invalid=None,
    )


def test_is_empty_before_the_first_scan(tmp_path: Path) -> None:
    model().write(tmp_path / "a.gguf")
    assert Catalog([folder(tmp_path)]).models() == []


def test_what_is_no_model_is_not_listed(tmp_path: Path) -> None:
    GGUF({"general.architecture": "llama"}).write(tmp_path / "vocabulary.gguf")
    model(general__type="adapter").write(tmp_path / "lora.gguf")
    model(general__architecture="clip").write(tmp_path / "mmproj.gguf")
    model().write(tmp_path / "model.gguf")
    assert ids(catalog(folder(tmp_path))) == ["model"]


def test_a_file_that_was_named_is_listed_with_what_is_wrong(tmp_path: Path) -> None:
    path = GGUF({"general.architecture": "llama"}).write(tmp_path / "vocabulary.gguf")
    [only] = catalog(File("--model-path", str(path)), folder(tmp_path)).models()
    assert only.invalid == "not a model but a vocabulary"


def test_broken_files_are_listed_with_the_reason(tmp_path: Path) -> None:
    data = model().encode()
    (tmp_path / "cut.gguf").write_bytes(data[:-40])
    (tmp_path / "text.gguf").write_text("hello, this is not a model file")
    model().write(tmp_path / "set-00001-of-00002.gguf")
    reasons = {each.id: each.invalid for each in catalog(folder(tmp_path)).models()}
    assert list(reasons) == ["cut", "set", "text"]
    assert reasons["cut"] and reasons["cut"].startswith("truncated: tensor token_embd.weight ends at byte")
    assert reasons["set"] == "1 of 2 shards are missing, the first is set-00002-of-00002.gguf"
    assert reasons["text"] == "not a GGUF file: it starts with b'hell'"


def test_shards_are_one_model(tmp_path: Path) -> None:
    first = model(split__count=2, split__no=0)
    second = GGUF({"split.count": 2, "split.no": 1}, [TensorSpec("blk.0.weight", (16,))])
    paths = [first.write(tmp_path / "m-00001-of-00002.gguf"), second.write(tmp_path / "m-00002-of-00002.gguf")]
    [only] = catalog(folder(tmp_path)).models()
    assert only.invalid is None and only.paths == tuple(map(str, paths))
    assert only.size_bytes == sum(path.stat().st_size for path in paths)
    assert only.facts and only.facts.num_parameters == 260 * 8 + 8 + 16


def test_a_file_found_twice_is_listed_once_and_has_both_names(tmp_path: Path) -> None:
    path = model().write(tmp_path / "a" / "first.gguf")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "linked.gguf").symlink_to(path)
    (tmp_path / "b" / "hard.gguf").hardlink_to(path)
    made = catalog(Folder("one", str(tmp_path / "a")), Folder("two", str(tmp_path / "b")))
    assert [(each.id, each.source) for each in made.models()] == [("first", "one")]
    assert {made.find(name).id for name in ("first", "linked", "hard")} == {"first"}


def test_a_further_name_of_a_file_changes_nothing_for_its_model(tmp_path: Path) -> None:
    """Which may be loaded by the name that it has."""
    path = aged(model().write(tmp_path / "m.gguf"))
    made = catalog(folder(tmp_path))
    (tmp_path / "a.gguf").hardlink_to(path)
    (tmp_path / "b.gguf").symlink_to(path)
    assert made.refresh() == []
    assert [(each.id, each.paths) for each in made.models()] == [("m", (str(path),))]
    assert {made.find(name).id for name in ("a", "b", "m", qualified("a", str(tmp_path / "a.gguf")))} == {"m"}
    assert {(each.name, each.reason) for each in made.skipped()} == {(name, "the same file as m") for name in "ab"}
    assert made.refresh() == []
    path.unlink()
    assert [(each.kind, each.id) for each in made.refresh()] == [("removed", "m"), ("added", "a")]


def test_two_tags_of_one_blob_both_lead_to_it(tmp_path: Path) -> None:
    digest = "ab" * 32
    blob = model().write(tmp_path / "blobs" / f"sha256-{digest}")
    content = {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}]}
    for tag in ("1b", "latest"):
        manifest = tmp_path / "manifests" / "registry.ollama.ai" / "library" / "llama3.2" / tag
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(json.dumps(content))
    made = catalog(OllamaStore(str(tmp_path)))
    assert ids(made) == ["llama3.2:1b"]
    for name in ("llama3.2:1b", "llama3.2:latest", "llama3.2", "LLAMA3.2"):
        assert made.find(name).paths == (str(blob),)


def test_equal_names_get_distinct_ids_that_stay(tmp_path: Path) -> None:
    paths = [str(model().write(tmp_path / each / "m.gguf")) for each in "bcd"]
    own = [qualified("m", path) for path in paths]
    before = catalog(folder(tmp_path))
    assert ids(before) == sorted(["m", own[1], own[2]])
    assert before.find("m").paths == (paths[0],)
    new = str(model().write(tmp_path / "a" / "m.gguf"))
    after = catalog(folder(tmp_path))
    assert after.find("m").paths == (new,)
    for made in (before, after):
        assert [made.find(name).paths for name in own] == [(path,) for path in paths]


def test_a_model_is_found_however_its_name_is_spelled(tmp_path: Path) -> None:
    model().write(tmp_path / "SmolLM2-135M.Q4_1.gguf")
    made = catalog(folder(tmp_path))
    for name in ("smollm2-135m.q4-1", "SmolLM2-135M.Q4_1", "smollm2 135m.q4_1"):
        assert made.find(name).id == "smollm2-135m.q4-1"


def test_the_exact_name_wins(tmp_path: Path) -> None:
    one = model().write(tmp_path / "one" / "m.gguf")
    model().write(tmp_path / "two" / "x.gguf")
    (tmp_path / "two" / "x-alias.gguf").symlink_to(one)
    model(general__name="real").write(tmp_path / "two" / "z" / "x-alias.gguf")
    made = catalog(folder(tmp_path))
    assert made.find("x-alias").paths == (str(tmp_path / "two" / "z" / "x-alias.gguf"),)


def test_an_unknown_name_is_answered_with_what_there_is(tmp_path: Path) -> None:
    model().write(tmp_path / "a.gguf")
    model().write(tmp_path / "b.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"")
    with pytest.raises(ModelNotFound) as error:
        catalog(folder(tmp_path)).find("c")
    assert error.value.message == "the model 'c' does not exist; there is a, b"
    with pytest.raises(ModelNotFound, match="no models were found on this machine"):
        catalog().find("c" * 10_000)


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    for number in range(52):
        model().write(tmp_path / f"{number:02}.gguf")
    with pytest.raises(ModelNotFound, match="48, 49 and 2 more$"):
        catalog(folder(tmp_path)).find("c")


def test_a_broken_model_is_not_handed_out(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"")
    with pytest.raises(ModelInvalid, match="the model 'broken' cannot be served: truncated") as error:
        catalog(folder(tmp_path)).find("broken")
    assert error.value.param == "model"


def test_a_rescan_reads_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counting(paths: tuple[str, ...]) -> object:
        read.extend(Path(path).name for path in paths)
        return inspect(paths)

    monkeypatch.setattr("shimmy.models.scan.inspect", counting)
    for name in ("a", "b"):
        aged(model().write(tmp_path / f"{name}.gguf"))
    aged(GGUF({"general.architecture": "llama"}).write(tmp_path / "vocabulary.gguf"))
    made = catalog(folder(tmp_path))
    assert read == ["a.gguf", "b.gguf", "vocabulary.gguf"]
    read.clear()
    model("Changed").write(tmp_path / "b.gguf")
    os.utime(tmp_path / "b.gguf", (5, 5))
    aged(model().write(tmp_path / "c.gguf"))
    (tmp_path / "a.gguf").unlink()
    made.refresh()
    assert read == ["b.gguf", "c.gguf"]
    assert ids(made) == ["b", "c"]
    facts = made.find("b").facts
    assert facts and facts.name == "Changed"


def test_a_listener_is_told_what_changed(tmp_path: Path) -> None:
    for name in ("gone", "same", "touched"):
        aged(model().write(tmp_path / f"{name}.gguf"))
    made = Catalog([folder(tmp_path)])
    told: list[tuple[str, str]] = []
    made.on_change = lambda change: told.append((change.kind, change.id))
    assert made.refresh() == [] and told == []
    (tmp_path / "gone.gguf").unlink()
    os.utime(tmp_path / "touched.gguf", (5, 5))
    aged(model().write(tmp_path / "new.gguf"))
    before = {each.id: each for each in made.models()}
    changed = {change.id: change for change in made.refresh()}
    after = {each.id: each for each in made.models()}
    assert told == [("removed", "gone"), ("added", "new"), ("changed", "touched")]
    assert changed["gone"].before == before["gone"] and changed["gone"].after is None
    assert changed["new"].before is None and changed["new"].after == after["new"]
    assert (changed["touched"].before, changed["touched"].after) == (before["touched"], after["touched"])
    assert made.refresh() == []


def test_a_file_that_breaks_or_is_repaired_is_a_change(tmp_path: Path) -> None:
    path = model().write(tmp_path / "a.gguf")
    whole = path.read_bytes()
    made = catalog(folder(tmp_path))
    path.write_bytes(whole[:-40])
    aged(path)
    [broken] = made.refresh()
    assert broken.before and broken.after and broken.before.invalid is None and broken.after.invalid
    path.write_bytes(whole)
    aged(path)
    [repaired] = made.refresh()
    assert repaired.after and repaired.after.invalid is None


def test_a_name_that_leads_to_another_file_is_a_change(tmp_path: Path) -> None:
    second = str(model().write(tmp_path / "b" / "m.gguf"))
    made = catalog(folder(tmp_path))
    first = str(aged(model().write(tmp_path / "a" / "m.gguf")))
    by_id = {change.id: change for change in made.refresh()}
    assert by_id["m"].kind == "changed" and by_id["m"].after and by_id["m"].after.paths == (first,)
    assert by_id[qualified("m", second)].kind == "added"


def test_a_listener_that_fails_is_no_obstacle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = catalog(folder(tmp_path))

    def fail(change: Change) -> None:
        raise RuntimeError("this listener is broken")

    made.on_change = fail
    for name in ("a", "b"):
        aged(model().write(tmp_path / f"{name}.gguf"))
    assert len(made.refresh()) == 2
    assert ids(made) == ["a", "b"]
    assert [record.getMessage() for record in caplog.records] == [f"that {id} was added went unheard" for id in "ab"]


def test_a_file_that_vanishes_during_the_scan_is_said(tmp_path: Path) -> None:
    class Vanished(File):
        def find(self) -> Iterator[Found]:
            yield from super().find()
            yield Found("gone", (str(tmp_path / "gone.gguf"),))

    path = model().write(tmp_path / "a.gguf")
    reasons = {each.id: each.invalid for each in catalog(Vanished("x", str(path))).models()}
    assert reasons == {"a": None, "gone": "cannot be read: No such file or directory"}


def test_says_where_it_searched(tmp_path: Path) -> None:
    made = Catalog([folder(tmp_path), Folder("LM Studio", str(tmp_path / "absent"))])
    assert made.searched() == [
        f"models folder: {tmp_path}",
        f"LM Studio: {tmp_path}/absent (does not exist)",
    ]
