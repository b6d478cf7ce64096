"""`kill -9` at any moment of a pull: the store can be used at once, and the next pull ends well."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from shimmy.store.folder import Store
from shimmy.store.pull import Pull
from tests.fakes.hub import Hub, noise, with_hub

# Has all imported, so that what it forks for each line it reads begins at once: to pull and to remove without end.
FORKING = """
import os, signal, sys, traceback
from shimmy.core.errors import ModelNotFound
from shimmy.store import background, pull
from shimmy.store.folder import Store
pull.CHUNK_BYTES = 128 << 10
signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def work():
    store = Store(os.environ["SHIMMY_STORE"])
    while True:
        pull.Pull.from_environ(store, os.environ, lambda progress: None).run("org/tiny")
        try:
            store.remove("org/tiny")
        except ModelNotFound:
            pass

for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    print(child, flush=True)
"""
TIMES = 200
MOST_TIMES = 250
EVERYTHING = {"blob", "partial", "manifest"}


@pytest.mark.slow
def test_killed_at_random_moments(hub: Hub, store: Store, tmp_path: Path) -> None:
    shards = {f"tiny-Q4_0-{number:05}-of-00002.gguf": noise(300_000, number) for number in (1, 2)}
    hub.repositories["org/tiny"] = shards
    moments = random.Random(7)
    seen: set[str] = set()
    longest = min(1.5 * seconds_of_a_pull(hub, store), 0.25)
    with open(tmp_path / "stderr.txt", "w") as stderr, forking(hub, store, stderr) as fork:
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


@contextmanager
def forking(hub: Hub, store: Store, stderr: IO[str]) -> Iterator[Callable[[], int]]:
    """Yields what starts one more process, and returns its id."""
    environ = with_hub(hub, Path(store.root))
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": stderr, "text": True}
    with subprocess.Popen([sys.executable, "-c", FORKING], env=environ, **pipes) as parent:
        assert parent.stdin and parent.stdout
        commands, answers = parent.stdin, parent.stdout

        def fork() -> int:
            print(file=commands, flush=True)
            return int(answers.readline())

        yield fork
        commands.close()


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
