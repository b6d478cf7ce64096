"""Whole pulls from a hub on this machine, over TLS: what comes, and what is made of hubs that fail."""

import errno
import hashlib
import socket
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from shimmy.core.errors import DigestMismatch, Forbidden, ModelNotFound, PullFailed, RequestError, StoreFull
from shimmy.core.pulling import Progress
from shimmy.models.catalog import Catalog
from shimmy.models.keeping import copy
from shimmy.models.stored import StoreSource
from shimmy.store import hosts, partial
from shimmy.store.folder import Store
from shimmy.store.http import Cancelled
from shimmy.store.pull import CHUNK_BYTES, Pull
from tests.fakes.gguf_writer import model
from tests.fakes.hub import COMMIT, TOKEN, Hub, layer, noise
from tests.store.conftest import pull

pytestmark = pytest.mark.slow

SMALL = noise(100_000)
LARGE = noise(20 << 20, seed=1)


def content(store: Store, digest: str | None) -> bytes:
    assert digest is not None
    return Path(store.blob(digest)).read_bytes()


def files(store: Store, folder: str) -> list[str]:
    return sorted(path.name for path in (Path(store.root) / folder).iterdir())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def repository(hub: Hub) -> Hub:
    hub.repositories["org/Tiny-GGUF"] = {"tiny-q8_0.gguf": noise(200_000, 2), "tiny-q4_k_m.gguf": SMALL}
    return hub


def test_the_preferred_file_of_a_repository(repository: Hub, store: Store) -> None:
    manifest, reported = pull(repository, store, "org/Tiny-GGUF")
    assert manifest.name == "hf.co/org/Tiny-GGUF:Q4_K_M"
    assert manifest.aliases == ("org/Tiny-GGUF:Q4_K_M", "tiny-q4_k_m", "hf.co/org/Tiny-GGUF", "org/Tiny-GGUF")
    assert [(part.name, part.size) for part in manifest.parts] == [("tiny-q4_k_m.gguf", len(SMALL))]
    assert content(store, manifest.parts[0].sha256) == SMALL
    assert (manifest.provenance.revision, manifest.provenance.license) == (COMMIT, "apache-2.0")
    assert store.find("org/tiny-gguf:latest") == manifest
    assert [each.status for each in reported if each.digest is None] == [
        "pulling manifest",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    assert files(store, "partial") == []


def test_a_journal_of_who_was_killed_once_the_blob_was_there(repository: Hub, store: Store) -> None:
    manifest, _ = pull(repository, store, "org/Tiny-GGUF")
    Path(f"{store.partial(str(manifest.parts[0].sha256))}.chunks").write_bytes(b"00000000 00000000\n")
    pull(repository, store, "org/Tiny-GGUF")
    assert files(store, "partial") == []


def test_what_was_asked_for(repository: Hub, store: Store) -> None:
    for name in ("org/Tiny-GGUF:q8_0", "https://huggingface.co/org/Tiny-GGUF/tiny-q8_0.gguf"):
        manifest, _ = pull(repository, store, name, revision=COMMIT)
        assert manifest.name == "hf.co/org/Tiny-GGUF:Q8_0"
    assert store.find("org/Tiny-GGUF") is None
    with pytest.raises(ModelNotFound, match="there is Q4_K_M, Q8_0"):
        pull(repository, store, "org/Tiny-GGUF:q2_k")
    with pytest.raises(ModelNotFound, match="no org/Tiny-GGUF at the revision 'v2'"):
        pull(repository, store, "org/Tiny-GGUF", revision="v2")
    with pytest.raises(ModelNotFound, match="has no org/nothing"):
        pull(repository, store, "org/nothing")


def test_shards_are_one_model(hub: Hub, store: Store) -> None:
    shards = {f"Q4_K_M/big-Q4_K_M-{number:05}-of-00003.gguf": noise(50_000, number) for number in (1, 2, 3)}
    hub.repositories["org/big"] = shards
    manifest, _ = pull(hub, store, "org/big")
    assert [content(store, part.sha256) for part in manifest.parts] == list(shards.values())
    assert manifest.aliases[:2] == ("org/big:Q4_K_M", "big-Q4_K_M")


def test_a_model_of_a_registry(hub: Hub, store: Store) -> None:
    hub.images["library/tiny:1b"] = SMALL
    manifest, _ = pull(hub, store, f"{hub.origin}/library/tiny:1b")
    assert manifest.name == f"{hub.origin}/library/tiny:1b"
    assert content(store, manifest.parts[0].sha256) == SMALL
    with pytest.raises(ModelNotFound):
        pull(hub, store, f"{hub.origin}/library/tiny:2b")
    with pytest.raises(RequestError, match="revision"):
        pull(hub, store, f"{hub.origin}/library/tiny:1b", revision="main")


BESIDE = {"params": b'{"stop":["</s>"]}', "system": b"Be Mario.", "adapter": noise(3000), "license": b"MIT"}


def test_what_comes_with_a_model_of_a_registry(hub: Hub, store: Store) -> None:
    """A Go template and a projector, which are of no use, stay where they are."""
    hub.images["library/tiny:1b"] = SMALL
    hub.beside["library/tiny:1b"] = BESIDE | {"projector": noise(4000)}
    manifest, reported = pull(hub, store, f"{hub.origin}/library/tiny:1b")
    assert {part.name: content(store, part.sha256) for part in manifest.layers} == BESIDE
    assert {each.file for each in reported} == {None, "model.gguf", *BESIDE}
    assert store.remove(manifest.name) == len(SMALL) + sum(map(len, BESIDE.values()))
    assert files(store, "blobs") == []


def test_what_comes_with_a_model_is_used(hub: Hub, store: Store, tmp_path: Path) -> None:
    hub.images["library/tiny:1b"] = model().write(tmp_path / "tiny.gguf").read_bytes()
    hub.beside["library/tiny:1b"] = BESIDE
    manifest, _ = pull(hub, store, f"{hub.origin}/library/tiny:1b")
    catalog = Catalog([StoreSource({"SHIMMY_STORE": store.root})])
    catalog.refresh()
    own = catalog.find(manifest.name).own
    assert (own.system, own.stop) == ("Be Mario.", ("</s>",))
    copy(store, catalog, manifest.name, "other")
    catalog.refresh()
    assert catalog.find("other").own == own


def test_a_layer_that_is_not_what_was_announced(hub: Hub, store: Store) -> None:
    hub.images["library/tiny:1b"] = SMALL
    hub.beside["library/tiny:1b"] = BESIDE
    hub.faults.corrupt = True
    with pytest.raises(DigestMismatch):
        pull(hub, store, f"{hub.origin}/library/tiny:1b")
    assert store.find(f"{hub.origin}/library/tiny:1b") is None


def test_a_registry_that_wants_to_know_who_asks(hub: Hub, store: Store) -> None:
    hub.images["library/tiny:1b"] = SMALL
    hub.faults.challenge = ""
    pull(hub, store, f"{hub.origin}/library/tiny:1b", HF_TOKEN=TOKEN)
    told = [(each.path.split("?")[0], each.host == hub.origin, each.authorization) for each in hub.seen]
    assert [each for each in told if each[2]] == [
        ("/v2/library/tiny/manifests/1b", True, "Bearer registry-token"),
        (f"/v2/library/tiny/blobs/sha256:{sha256(SMALL)}", True, "Bearer registry-token"),
    ]


def test_a_registry_that_sends_us_elsewhere_for_a_token(hub: Hub, store: Store) -> None:
    hub.images["library/tiny:1b"] = SMALL
    hub.faults.challenge = "https://169.254.169.254/latest/meta-data"
    with pytest.raises(Forbidden, match="169.254.169.254"):
        pull(hub, store, f"{hub.origin}/library/tiny:1b")


@pytest.mark.parametrize(
    "layers",
    [
        [{**layer(SMALL), "digest": "sha256:../../../../etc/passwd"}],
        [{**layer(SMALL), "digest": f"sha256:{sha256(SMALL).upper()}"}],
        [{**layer(SMALL), "digest": f"sha256:{sha256(SMALL)}\n"}],
        [{**layer(SMALL), "size": -1}],
        [{**layer(SMALL), "size": 1 << 60}],
        [layer(SMALL), layer(LARGE)],
        [layer(SMALL), {**layer(b"{}", "params"), "digest": "sha256:../../../../etc/passwd"}],
        [layer(SMALL), {**layer(b"{}", "params"), "size": (1 << 20) + 1}],
        [layer(SMALL), *[layer(b"MIT", "license")] * 65],
        [layer(SMALL, "adapter")],
        [layer(SMALL, "tensor")],
        "layers",
        None,
    ],
)
def test_a_manifest_that_makes_no_sense(hub: Hub, store: Store, layers: Any) -> None:
    hub.manifests["library/tiny:1b"] = {"schemaVersion": 2, "layers": layers}
    with pytest.raises(PullFailed):
        pull(hub, store, f"{hub.origin}/library/tiny:1b")
    assert (files(store, "blobs"), files(store, "partial")) == ([], [])


def test_a_token_is_told_to_the_hub_alone(repository: Hub, store: Store) -> None:
    repository.private.add("org/Tiny-GGUF")
    with pytest.raises(ModelNotFound, match="set HF_TOKEN"):
        pull(repository, store, "org/Tiny-GGUF")
    with pytest.raises(ModelNotFound, match="HF_TOKEN is not for it"):
        pull(repository, store, "org/Tiny-GGUF", HF_TOKEN="hf_wrong")
    repository.seen.clear()
    pull(repository, store, "org/Tiny-GGUF", HF_TOKEN=TOKEN)
    told = {(each.host == repository.origin, each.authorization) for each in repository.seen}
    assert told == {(True, f"Bearer {TOKEN}"), (False, None)}


def test_a_gated_repository(repository: Hub, store: Store) -> None:
    repository.gated.add("org/Tiny-GGUF")
    with pytest.raises(ModelNotFound, match="gated, set HF_TOKEN"):
        pull(repository, store, "org/Tiny-GGUF")
    pull(repository, store, "org/Tiny-GGUF", HF_TOKEN=TOKEN)


@pytest.mark.parametrize(
    "to",
    [
        "http://localhost/file",
        "https://user:password@localhost/file",
        "https://evil.example/file",
        "https://127.0.0.1/file",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/file",
        "file:///etc/passwd",
        "ftp://huggingface.co/file",
        "https://huggingface.co.evil.example/file",
        "https://huggingface.co:8443/file",
        "https://[::1/file",
        "//[",
    ],
)
def test_redirects_to_where_nothing_is_fetched_from(repository: Hub, store: Store, to: str) -> None:
    repository.faults.redirect = to
    with pytest.raises(Forbidden):
        pull(repository, store, "org/Tiny-GGUF")
    assert files(store, "blobs") == []


def test_redirects_in_a_circle(repository: Hub, store: Store) -> None:
    repository.faults.redirect = f"https://{repository.origin}/org/Tiny-GGUF/resolve/{COMMIT}/tiny-q4_k_m.gguf"
    with pytest.raises(PullFailed, match="redirects more than"):
        pull(repository, store, "org/Tiny-GGUF")


def test_a_host_that_nobody_named(repository: Hub, store: Store) -> None:
    with pytest.raises(Forbidden, match="SHIMMY_PULL_HOSTS"):
        pull(repository, store, "org/Tiny-GGUF", SHIMMY_PULL_HOSTS="")
    with pytest.raises(Forbidden, match="registry.example"):
        pull(repository, store, "registry.example/library/tiny")


def test_a_challenge_that_is_long(hub: Hub, store: Store) -> None:
    hub.images["library/tiny:1b"] = SMALL
    hub.faults.challenge = 'x"' + "a" * 60_000
    # What others do on this machine meanwhile does not count.
    began = time.thread_time()
    with pytest.raises(Forbidden):
        pull(hub, store, f"{hub.origin}/library/tiny:1b")
    assert time.thread_time() - began < 5


def test_shards_of_the_same_content(hub: Hub, store: Store) -> None:
    hub.repositories["org/big"] = {f"big-Q4_0-{number:05}-of-00002.gguf": SMALL for number in (1, 2)}
    manifest, _ = pull(hub, store, "org/big")
    assert [part.sha256 for part in manifest.parts] == [sha256(SMALL)] * 2
    assert len(hub.ranges) == 1


@pytest.mark.parametrize("stem", ["a..b", "-a b-", "a" * 180, "..", "ü"])
def test_any_file_name_makes_a_name_that_can_be_found(hub: Hub, store: Store, stem: str) -> None:
    hub.repositories["org/odd"] = {f"{stem}.gguf": SMALL}
    manifest, _ = pull(hub, store, "org/odd")
    assert store.find(manifest.name) == manifest == store.find("org/odd")


def test_a_name_that_becomes_too_long(hub: Hub, store: Store) -> None:
    name = f"{'o' * 95}/{'r' * 95}"
    hub.repositories[name] = {"tiny-q4_0.gguf": SMALL}
    with pytest.raises(RequestError, match="no name for a model"):
        pull(hub, store, name)
    assert hub.ranges == []


@pytest.mark.parametrize("path", ["a" * 600 + ".gguf", "a\nb.gguf", "a\x1b[2J.gguf"])
def test_file_names_that_cannot_be_shown(hub: Hub, store: Store, path: str) -> None:
    hub.repositories["org/odd"] = {path: SMALL}
    with pytest.raises(ModelNotFound, match="no GGUF model"):
        pull(hub, store, "org/odd")


def test_a_certificate_of_nobody(repository: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(PullFailed, match=r"certificate of 127.0.0.1:\d+ is not trusted"):
        pull(repository, store, "org/Tiny-GGUF")


def test_a_large_file_comes_in_ranges_at_the_same_time(hub: Hub, store: Store) -> None:
    hub.repositories["org/large"] = {"large-q4_0.gguf": LARGE}
    hub.faults.block_seconds = 0.002
    manifest, reported = pull(hub, store, "org/large")
    assert content(store, manifest.parts[0].sha256) == LARGE
    assert len(hub.ranges) == 5 and sorted(hub.ranges)[0] == f"bytes=0-{CHUNK_BYTES - 1}"
    counts = [each.completed for each in reported if each.digest]
    assert counts[-1] == len(LARGE) and counts == sorted(counts, key=lambda count: count or 0)


@pytest.mark.parametrize("serves_ranges", [True, False])
def test_connections_that_are_cut(hub: Hub, store: Store, serves_ranges: bool) -> None:
    hub.repositories["org/large"] = {"large-q4_0.gguf": LARGE[: 9 << 20]}
    hub.faults.serves_ranges = serves_ranges
    # Without ranges each try starts from the beginning again, so that only a longer one gets further.
    hub.faults.cut_bytes = 1_300_000 if serves_ranges else None
    hub.faults.statuses = [503, 429]
    manifest, _ = pull(hub, store, "org/large")
    assert content(store, manifest.parts[0].sha256) == LARGE[: 9 << 20]


def test_a_hub_that_gets_nowhere(repository: Hub, store: Store) -> None:
    repository.faults.cut_bytes = 0
    with pytest.raises(PullFailed, match="given up after 6 tries: .* cut the connection"):
        pull(repository, store, "org/Tiny-GGUF")
    repository.faults.cut_bytes = None
    assert pull(repository, store, "org/Tiny-GGUF")[0].size == len(SMALL)


@pytest.mark.parametrize(
    ("fault", "value", "said"),
    [
        ("encoding", "gzip", "compressed"),
        ("content_range", "bytes 5-99999/100000", "bytes 5-"),
        ("content_range", "bytes 0-99999/100001", "100001"),
        ("content_range", "lines 1-2", "lines"),
        # Of more digits than Python makes a number of.
        ("content_range", f"bytes 0-99999/{'9' * 5000}", "bytes 0-"),
        ("statuses", [404], "status 404"),
    ],
)
def test_answers_that_are_not_to_what_was_asked(
    repository: Hub, store: Store, fault: str, value: Any, said: str
) -> None:
    setattr(repository.faults, fault, value)
    with pytest.raises(PullFailed, match=said):
        pull(repository, store, "org/Tiny-GGUF")


def test_a_file_that_is_not_what_was_announced(hub: Hub, store: Store) -> None:
    """The other shard, which was verified, need not come again."""
    shards = {f"big-Q4_0-{number:05}-of-00002.gguf": noise(50_000, number) for number in (1, 2)}
    hub.repositories["org/big"] = shards
    first, second = map(sha256, shards.values())
    pull_first_shard(hub, store)
    hub.faults.corrupt = True
    with pytest.raises(DigestMismatch, match=f"sha256:{second}"):
        pull(hub, store, "org/big")
    assert files(store, "blobs") == [f"sha256-{first}"] and files(store, "partial") == []
    assert store.find("org/big") is None
    hub.faults.corrupt = False
    hub.seen.clear()
    pull(hub, store, "org/big")
    assert {each.path.split("?")[0] for each in hub.seen if each.host == hub.files_origin} == {f"/file/{second}"}


def pull_first_shard(hub: Hub, store: Store) -> None:
    """As a pull that was cancelled between two files leaves it."""

    def report(progress: Progress) -> None:
        if progress.status == "verifying sha256 digest":
            one.cancel()

    one = Pull.from_environ(store, hub.environ, report)
    with pytest.raises(Cancelled):
        one.run("org/big")


def test_cancelled_and_gone_on_with(hub: Hub, store: Store) -> None:
    hub.repositories["org/large"] = {"large-q4_0.gguf": LARGE}
    # In the middle of the third chunk.
    hub.faults.held_from = 2 * CHUNK_BYTES + (1 << 20)

    def report(progress: Progress) -> None:
        if (progress.completed or 0) > 2 * CHUNK_BYTES:
            one.cancel()

    one = Pull.from_environ(store, hub.environ, report)
    with pytest.raises(Cancelled):
        one.run("org/large")
    assert partial.num_arrived(store.partial(sha256(LARGE))) == 2
    hub.faults.held_from = None
    hub.faults.let_go.set()
    hub.seen.clear()
    assert content(store, pull(hub, store, "org/large")[0].parts[0].sha256) == LARGE
    assert len(hub.ranges) == 3


def test_chunks_that_were_damaged_meanwhile_come_again(hub: Hub, store: Store) -> None:
    hub.repositories["org/large"] = {"large-q4_0.gguf": LARGE}
    test_cancelled_and_gone_on_with(hub, store)
    store.remove("org/large")
    store.make()
    grown = partial.Partial(store.partial(sha256(LARGE)), len(LARGE), CHUNK_BYTES)
    grown.check(lambda: None)
    for chunk in range(4):
        at = chunk * CHUNK_BYTES
        piece = memoryview(LARGE[at : at + CHUNK_BYTES])
        grown.write(at, piece)
        grown.finish(chunk, zlib.crc32(piece))
    grown.write(2 * CHUNK_BYTES + 17, memoryview(b"damage"))
    grown.close()
    hub.seen.clear()
    assert content(store, pull(hub, store, "org/large")[0].parts[0].sha256) == LARGE
    starts = sorted(int(each.split("=")[1].split("-")[0]) // CHUNK_BYTES for each in hub.ranges)
    assert starts == [2, 4]


def test_two_pulls_of_the_same_bring_it_once(hub: Hub, store: Store) -> None:
    hub.repositories["org/large"] = {"large-q4_0.gguf": LARGE}
    one_waits = threading.Event()
    manifests = []

    def report(progress: Progress) -> None:
        if progress.status == "waiting for another pull":
            one_waits.set()
        elif progress.digest:
            # Who brings it comes to no end before the other one has found it so.
            one_waits.wait(60)

    def run() -> None:
        manifests.append(Pull.from_environ(Store(store.root), hub.environ, report).run("org/large"))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one_waits.is_set()
    assert len(manifests) == 2 and len(hub.ranges) == 5


def test_there_is_no_room(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["org/tiny"] = {"tiny-q4_0.gguf": SMALL}
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(StoreFull, match="needs 17 MiB more .* 1 MiB are free") as raised:
        pull(hub, store, "org/tiny")
    assert raised.value.details["free_bytes"] == 1000
    assert hub.ranges == []


def test_a_new_version_takes_the_place_of_the_old(hub: Hub, store: Store) -> None:
    for version in (b"1", b"2"):
        hub.repositories["org/tiny"] = {"tiny-q4_0.gguf": SMALL + version}
        manifest, _ = pull(hub, store, "org/tiny")
    assert files(store, "blobs") == [f"sha256-{manifest.parts[0].sha256}"]
    hub.repositories["org/tiny"]["tiny-q4_k_m.gguf"] = LARGE[:1000]
    better, _ = pull(hub, store, "org/tiny")
    assert store.find("org/tiny") == better
    assert store.find("org/tiny:q4_0") is not None


def test_a_disk_that_becomes_full(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before is not brought again."""
    hub.repositories["org/large"] = {"large-q4_0.gguf": LARGE}
    # More than all streams have unfinished.
    room = 18 << 20
    taking = threading.Lock()
    write = partial._write_at

    def write_while_there_is_room(descriptor: int, piece: memoryview, offset: int) -> int:
        nonlocal room
        with taking:
            if len(piece) > room:
                raise OSError(errno.ENOSPC, "No space left on device")
            room -= len(piece)
        return write(descriptor, piece, offset)

    monkeypatch.setattr(partial, "_write_at", write_while_there_is_room)
    with pytest.raises(StoreFull, match="what has arrived is kept"):
        pull(hub, store, "org/large")
    there = partial.num_arrived(store.partial(sha256(LARGE)))
    room = 1 << 40
    hub.seen.clear()
    pull(hub, store, "org/large")
    assert len(hub.ranges) == 5 - there < 5


def test_a_connection_on_which_nothing_comes(repository: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shimmy.store.http.STALL_SECONDS", 0.2)
    repository.faults.block_seconds = 0.4
    with pytest.raises(PullFailed, match="came for 0.2 s"):
        pull(repository, store, "org/Tiny-GGUF")


def test_a_connection_on_which_hardly_anything_comes(
    repository: Hub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shimmy.store.http.STALL_SECONDS", 0.3)
    repository.faults.block_bytes = 10
    repository.faults.block_seconds = 0.02
    with pytest.raises(PullFailed, match="too little, came for 0.3 s"):
        pull(repository, store, "org/Tiny-GGUF")


def test_a_name_server_that_is_away_for_a_moment(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["org/large"] = {"large-q4_0.gguf": LARGE}
    hub.faults.cut_bytes = 3 << 20
    resolve = hosts._resolve
    asked = 0

    def most_times(host: str, port: int) -> list[str]:
        nonlocal asked
        asked += 1
        if asked % 5 == 0:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(host, port)

    monkeypatch.setattr(hosts, "_resolve", most_times)
    assert pull(hub, store, "org/large")[0].size == len(LARGE)
