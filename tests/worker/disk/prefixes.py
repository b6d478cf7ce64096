"""Prefixes whose states can be told from their tokens: whoever reads a wrong one notices."""

import array
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from shimmy.worker.disk.tier import DiskTier
from shimmy.worker.prefix_states import StateTier

KEY = b"k" * 32
NUM_PREFIXES = 12
# Less than all of them take, so that there is always one to write.
BUDGET = 400_000
NO_MOUNT = 77
NUM_FOUND = 20
BLOCK = b"what stands in a state " * 50


def prefix(number: int, num_tokens: int = 100) -> "array.array[int]":
    """Prefixes of one `number` are prefixes of each other."""
    dice = random.Random(number)
    return array.array("i", [dice.randrange(50_000) for _ in range(num_tokens)])


def state_after(tokens: "array.array[int]", size: int = 20_000) -> bytes:
    return (tokens.tobytes() + BLOCK * (1 + size // len(BLOCK)))[:size]


def any_part(length: int, stored: int) -> bool:
    """As where all layers of a model see everything."""
    return True


def only_all(length: int, stored: int) -> bool:
    """As where layers are recurrent."""
    return length == stored


def tier_in(folder: Path, budget_bytes: int = BUDGET, identity: bytes = b"model", key: bytes | None = None) -> DiskTier:
    return DiskTier(folder, budget_bytes, identity, any_part, key)


def fetch(tier: StateTier, tokens: "array.array[int]", namespace: str = "") -> bytes | None:
    """The state after exactly `tokens`, as a request for one token more finds it."""
    hit = tier.match(tokens + array.array("i", [1]), namespace)
    return tier.fetch(hit) if hit and hit.length == hit.stored == len(tokens) else None


def offer(tier: StateTier, tokens: "array.array[int]", namespace: str = "", size: int = 20_000) -> bool:
    """Whether it was wanted."""
    wanted = tier.wants(tokens, namespace, size)
    if wanted:
        tier.offer(tokens, namespace, state_after(tokens, size))
    return wanted


def store(folder: Path, *numbers: int, key: bytes | None = None, identity: bytes = b"model") -> None:
    """By a tier of its own, as before a restart."""
    tier = tier_in(folder, identity=identity, key=key)
    for number in numbers:
        assert offer(tier, prefix(number))
    tier.close(60.0)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def until(holds: Callable[[], object]) -> None:
    """What other threads and processes do shows a moment later."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def namespaces(tier: DiskTier) -> list[str]:
    """A plain and a sealed one."""
    return ["", tier.unlock("", KEY)]


def write_until_killed(folder: Path, seed: int) -> NoReturn:
    """Or until the parent is gone."""
    tier = tier_in(folder)
    dice, parent, spaces = random.Random(seed), os.getppid(), namespaces(tier)
    while os.getppid() == parent:
        offer(tier, prefix(dice.randrange(NUM_PREFIXES)), dice.choice(spaces), dice.randrange(1, 60_000))
        time.sleep(0.0005)
    os._exit(1)


def use_for(folder: Path, seconds: float, seed: int) -> int:
    """Writes and reads what others write, too, and longer than that if nothing much was found; returns how often
    something was. Exits when it is wrong."""
    tier = tier_in(folder)
    dice, found, end, spaces = random.Random(seed), 0, time.monotonic() + seconds, namespaces(tier)
    while (now := time.monotonic()) < end or (found <= NUM_FOUND and now < end + 60):
        tokens, namespace = prefix(dice.randrange(NUM_PREFIXES)), dice.choice(spaces)
        state = fetch(tier, tokens, namespace)
        if state is None:
            offer(tier, tokens, namespace, 30_000)
        elif state == state_after(tokens, 30_000):
            found += 1
        else:
            sys.exit("a wrong state")
    tier.close(60.0)
    return found


def fill_file_system(folder: Path, times: int) -> str:
    """Mounts a file system of one MiB and offers more; returns how many entries and files there are."""
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", folder]).returncode:
        sys.exit(NO_MOUNT)
    tier = tier_in(folder, 1 << 30)
    for number in range(times):
        offer(tier, prefix(number), size=100_000)
    tier.close(60.0)
    found = [number for number in range(times) if fetch(tier, prefix(number))]
    return f"{len(found)} {len(os.listdir(folder))}"


def kill_writers(folder: Path, times: int) -> str:
    """Kills a process that writes, at any moment of it. Exits when an entry is wrong.

    Returns how many entries were read, and how often a file was left unfinished. It forks, and so must run in a process
    that has no threads.
    """
    dice, found, unfinished = random.Random(1), 0, 0
    folder.mkdir(parents=True, mode=0o700)
    for turn in range(times):
        child = os.fork()
        if not child:
            write_until_killed(folder, turn)
        wait_for_change(folder)
        time.sleep(dice.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        unfinished += any(name.endswith(".partial") for name in os.listdir(folder))
        tier = tier_in(folder)
        for number, namespace in itertools.product(range(NUM_PREFIXES), namespaces(tier)):
            tokens = prefix(number)
            state = fetch(tier, tokens, namespace)
            if state is not None and state != state_after(tokens, len(state)):
                sys.exit("a wrong state")
            found += state is not None
    return f"{found} {unfinished}"


def wait_for_change(folder: Path) -> None:
    before, deadline = os.listdir(folder), time.monotonic() + 10
    while os.listdir(folder) == before and time.monotonic() < deadline:
        time.sleep(0.0005)


if __name__ == "__main__":
    act, path, *numbers = sys.argv[1:]
    acts: dict[str, Callable[..., object]] = {
        "fill_file_system": fill_file_system,
        "kill_writers": kill_writers,
        "use_for": use_for,
    }
    print(acts[act](Path(path), *(int(number) for number in numbers)))
