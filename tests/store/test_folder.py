"""The store's folders: names, what is removed and what stays, and manifests of which nothing is believed."""

import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import Busy, ModelNotFound, RequestError
from shimmy.models.catalog import Catalog
from shimmy.models.keeping import remove
from shimmy.models.stored import StoreSource
from shimmy.store import folder
from shimmy.store.folder import ABANDONED_SECONDS, Store
from shimmy.store.imports import in_place, repository_name
from shimmy.store.locks import locked, locked_if_free
from shimmy.store.manifests import Manifest, Part, Provenance, decode, encode
from shimmy.store.names import local_name, plain_name

ORIGIN = Provenance("https://hf.co/a/b", "2026-11-21T00:00:00Z")


def kept(store: Store, name: str, content: bytes = b"one", *aliases: str) -> str:
    """The digest of its blob."""
    store.make()
    digest = hashlib.sha256(content).hexdigest()
    Path(store.blob(digest)).write_bytes(content)
    store.keep(Manifest(name, (Part("m.gguf", len(content), digest),), ORIGIN, aliases))
    return digest


def test_found_by_any_name(store: Store) -> None:
    kept(store, "hf.co/A/B:Q4_0", b"one", "A/B", "file")
    for name in ("hf.co/A/B:Q4_0", "HF.co/a/b:q4_0", "a/b", "A/B:latest", "FILE"):
        found = store.find(name)
        assert found and found.name == "hf.co/A/B:Q4_0"
    assert store.find("a") is None and store.find("../hf.co") is None


def test_a_name_comes_before_its_variants(store: Store) -> None:
    for number in range(8):
        for name in (f"m{number}", f"m{number}:latest"):
            kept(store, name, name.encode())
    for number in range(8):
        for name in (f"m{number}", f"m{number}:latest"):
            found = store.find(name)
            assert found and found.name == name


def test_a_folder_among_the_manifests(store: Store) -> None:
    """As network drives and file managers make them."""
    digest = kept(store, "a:1")
    (Path(store.root) / "manifests" / "@eaDir").mkdir()
    store.sweep()
    assert store.remove("a:1") == 3 and not os.path.exists(store.blob(digest))


def test_a_blob_goes_with_the_last_model_that_has_it(store: Store) -> None:
    digest = kept(store, "a:1")
    found = store.find("a:1")
    assert found
    store.copy(found, "b:1")
    assert store.remove("A:1") == 0 and os.path.exists(store.blob(digest))
    assert store.remove("b:1") == 3 and not os.path.exists(store.blob(digest))
    with pytest.raises(ModelNotFound):
        store.remove("b:1")


def test_a_blob_that_a_pull_holds_stays(store: Store) -> None:
    digest = kept(store, "a:1")
    with locked(store.lock(digest), pytest.fail):
        assert store.remove("a:1") == 0
    assert os.path.exists(store.blob(digest))


def test_what_a_pull_holds_is_not_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does would wait for as long as the pull takes. Nothing is left of what was begun."""
    monkeypatch.setattr(folder, "_PATIENCE_SECONDS", 0.0)
    digest = kept(store, "a:1")
    found = store.find("a:1")
    assert found
    with locked(store.lock(digest), pytest.fail), pytest.raises(Busy, match=digest):
        store.copy(found, "b:1")
    fresh = hashlib.sha256(b"fresh").hexdigest()
    with locked(store.lock(fresh), pytest.fail):
        with pytest.raises(Busy):
            store.put(b"fresh")
        assert [path.name for path in (Path(store.root) / "partial").iterdir()] == [f"sha256-{fresh}.lock"]
    assert store.find("b:1") is None and store.put(b"fresh") == fresh


def test_a_model_that_goes_while_it_is_copied(store: Store) -> None:
    kept(store, "a:1")
    found = store.find("a:1")
    assert found
    store.remove("a:1")
    with pytest.raises(ModelNotFound):
        store.copy(found, "b:1")
    assert store.find("b:1") is None


def test_a_manifest_that_cannot_be_read_can_be_removed(store: Store) -> None:
    digest = kept(store, "a:1")
    path = Path(store.root) / "manifests" / "a%3A1.json"
    path.write_text(digest)
    assert store.find("a:1") is None
    assert remove(store, Catalog(()), "A:1") == 0
    assert not path.exists()
    store.sweep(now=time.time() + ABANDONED_SECONDS + 60)
    assert not os.path.exists(store.blob(digest))


def test_a_manifest_of_a_newer_program_keeps_its_blobs(store: Store) -> None:
    digest = kept(store, "a:1")
    newer = {"format": 9, "name": "b:1", "layers": [digest]}
    (Path(store.root) / "manifests" / "b%3A1.json").write_text(json.dumps(newer))
    assert store.remove("a:1") == 0 and os.path.exists(store.blob(digest))
    (found,) = StoreSource({"SHIMMY_STORE": store.root}).find()
    assert found.name == "b:1" and found.reason and "its manifest cannot be read" in found.reason


def test_what_was_abandoned_is_swept(store: Store) -> None:
    digest, other = kept(store, "a:1"), "f" * 64
    for path in (store.partial(other), store.partial(other) + ".chunks", store.blob(other), store.partial("e" * 64)):
        Path(path).write_bytes(b"x")
    Path(store.root, "manifests", ".0123").write_bytes(b"half")
    Path(store.root, "blobs", "not ours").write_bytes(b"x")
    store.sweep()
    assert len(os.listdir(Path(store.root) / "partial")) == 3
    with locked(store.lock("e" * 64), pytest.fail):
        store.sweep(time.time() + ABANDONED_SECONDS + 60)
    assert os.listdir(Path(store.root) / "partial") == ["sha256-" + "e" * 64]
    assert sorted(os.listdir(Path(store.root) / "blobs")) == ["not ours", f"sha256-{digest}"]
    assert os.listdir(Path(store.root) / "manifests") == ["a%3A1.json"]


def test_names_that_others_had(store: Store) -> None:
    kept(store, "a:1", b"one", "both", "first")
    kept(store, "a:2", b"two", "both")
    first, second = store.find("a:1"), store.find("a:2")
    assert first and first.aliases == ("first",)
    assert second and second.aliases == ("both",)


def test_a_lock_is_had_by_one(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with locked(path, lambda: time.sleep(0.0005)):
                inside += 1
                most = max(most, inside)
                time.sleep(0.0001)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and not os.path.exists(path)
    with locked(path, pytest.fail), locked_if_free(path) as is_free:
        assert not is_free


MANIFEST = json.loads(encode(Manifest("a:1", (Part("m.gguf", 3, "0" * 64),), ORIGIN, ("b",))))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../x"),
        ("name", "a/../../x"),
        ("aliases", ["/etc/passwd"]),
        ("parts", []),
        ("parts", [{"name": "m", "size": 3}]),
        ("parts", [{"name": "m", "size": 3, "sha256": "../../../etc/passwd"}]),
        ("parts", [{"name": "m", "size": 3, "sha256": "A" * 64}]),
        ("format", 2),
        ("provenance", None),
    ],
)
def test_a_manifest_that_we_did_not_write(field: str, value: Any) -> None:
    with pytest.raises(ValueError):
        decode(json.dumps(MANIFEST | {field: value}).encode())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["0" * 64, "a:1", "../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(MANIFEST)), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.binary(max_size=60)
    | json_values.map(json.dumps).map(str.encode)
    | st.builds(
        lambda field, value: json.dumps(MANIFEST | {field: value}).encode(),
        st.sampled_from(sorted(MANIFEST)),
        json_values,
    )
)
def test_any_manifest_is_whole_or_refused(content: bytes) -> None:
    try:
        found = decode(content)
    except ValueError:
        return
    assert decode(encode(found)) == found
    assert all(local_name(name) for name in (found.name, *found.aliases))
    assert all(len(digest) == 64 and int(digest, 16) >= 0 for digest in found.digests)


def test_files_in_place(store: Store, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub/models--Org--Repo-GGUF/snapshots/abc123"
    blob = tmp_path / "hub/models--Org--Repo-GGUF/blobs" / ("c" * 64)
    snapshot.mkdir(parents=True)
    blob.parent.mkdir()
    blob.write_bytes(b"GGUF")
    (snapshot / "repo-Q4_0.gguf").symlink_to(blob)
    path = str(snapshot / "repo-Q4_0.gguf")
    manifest = in_place("x", [path], "somebody")
    (part,) = manifest.parts
    assert (part.path, part.size, part.sha256) == (path, 4, "c" * 64)
    assert manifest.provenance.revision == "abc123" and manifest.digests == set()
    assert repository_name(path, str(tmp_path / "hub")) == "hf.co/Org/Repo-GGUF:Q4_0"
    assert repository_name("/lm/org/repo/m-Q8_0-00001-of-00002.gguf", "/lm") == "hf.co/org/repo:Q8_0"
    assert repository_name("/lm/m.gguf", "/lm") is None
    with pytest.raises(RequestError):
        in_place("../x", [path], "somebody")


@given(st.text(max_size=300))
def test_anything_has_a_plain_name(text: str) -> None:
    assert local_name(plain_name(text))
