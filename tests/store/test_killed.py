"""`kill -9` at any moment of a pull: the store can be used at once, and the next pull ends well."""

import hashlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from shimmy.store.folder import Store
from shimmy.store.pull import Pull
from tests.fakes.forking import forking
from tests.fakes.hub import Hub, noise, with_hub

# To pull and to remove without end.
PULLING = """
import os
from shimmy.core.errors import ModelNotFound
from shimmy.store import background, pull
from shimmy.store.folder import Store
pull.CHUNK_BYTES = 128 << 10

def work():
    store = Store(os.environ["SHIMMY_STORE"])
    while True:
        pull.Pull.from_environ(store, os.environ, lambda progress: None).run("org/tiny")
        try:
            store.remove("org/tiny")
        except ModelNotFound:
            pass
"""
TIMES = 200
MOST_TIMES = 250
EVERYTHING = {"blob", "partial", "manifest"}


# It takes half a minute where nobody else wants the processor.
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_at_random_moments(hub: Hub, store: Store, tmp_path: Path) -> None:
    shards = {f"tiny-Q4_0-{number:05}-of-00002.gguf": noise(300_000, number) for number in (1, 2)}
    hub.repositories["org/tiny"] = shards
    moments = random.Random(7)
    seen: set[str] = set()
    longest = min(1.5 * seconds_of_a_pull(hub, store), 0.25)
    environ = with_hub(hub, Path(store.root))
    with open(tmp_path / "stderr.txt", "w") as stderr, forking(PULLING, environ, stderr) as fork:
        # Two at a time, who are in each other's way.
        running = [fork(), fork()]
        for number in range(MOST_TIMES):
            if number >= TIMES:
                # Where others want the processor it takes longer until there is a manifest.
                longest *= 1.05
                if seen == EVERYTHING:
                    break
            time.sleep(moments.uniform(0.0, longest))
            os.kill(running.pop(0), signal.SIGKILL)
            running.append(fork())
            seen |= check(store)
        for pid in running:
            os.kill(pid, signal.SIGKILL)
    assert (tmp_path / "stderr.txt").read_text() == ""
    # They were killed before, while and after something came.
    assert seen == EVERYTHING
    manifest = Pull.from_environ(store, hub.environ, lambda progress: None).run("org/tiny")
    assert [Path(store.blob(part.sha256 or "")).read_bytes() for part in manifest.parts] == list(shards.values())
    assert os.listdir(Path(store.root) / "partial") == []


def seconds_of_a_pull(hub: Hub, store: Store) -> float:
    """On this machine, with what else it does."""
    began = time.monotonic()
    Pull.from_environ(store, hub.environ, lambda progress: None).run("org/tiny")
    store.remove("org/tiny")
    return time.monotonic() - began


def check(store: Store) -> set[str]:
    """Whatever is there is right: blobs are what they are called, and the catalogue's view has no trouble."""
    seen = set()
    root = Path(store.root)
    for path in (root / "blobs").glob("*"):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        assert hashlib.sha256(content).hexdigest() == path.name.removeprefix("sha256-")
        seen.add("blob")
    for _, manifest, trouble in store.listed():
        assert manifest is not None, trouble
        seen.add("manifest")
    if any((root / "partial").glob("*.chunks")):
        seen.add("partial")
    return seen
