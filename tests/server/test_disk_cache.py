"""The folder, and the salt that tenants are named with: what has to survive a restart, and nobody else may know."""

import os
import stat
import threading
from pathlib import Path

import pytest

from shimmy.core.ipc import DiskCache
from shimmy.core.keys import ApiKey
from shimmy.core.request import Secret
from shimmy.core.settings import Settings
from shimmy.server.disk_cache import disk_cache, tenant_salt
from shimmy.server.guards import Guard

KEYED = Settings(kv_cache_bytes=1 << 30, api_keys=(ApiKey.of("sesame"), ApiKey.of("other")))


@pytest.fixture(autouse=True)
def states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "shimmy" / "states"


def test_what_workers_are_told(states: Path) -> None:
    assert disk_cache(Settings()) is None
    settings = Settings(kv_cache_bytes=1 << 30, kv_cache_key=Secret(b"k" * 32))
    assert disk_cache(settings) == DiskCache(os.fsencode(states), 1 << 30, Secret(b"k" * 32))


def test_the_salt_outlives_the_server_and_is_for_us_alone(states: Path) -> None:
    salt = tenant_salt(KEYED)
    assert salt is not None and len(salt) == 32
    assert tenant_salt(KEYED) == salt
    [path] = states.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(states.stat().st_mode) == 0o700
    path.unlink()
    assert tenant_salt(KEYED) != salt


def test_without_keys_or_without_a_cache_nothing_is_written(states: Path) -> None:
    assert tenant_salt(Settings(api_keys=(ApiKey.of("sesame"),))) is None
    assert tenant_salt(Settings(kv_cache_bytes=1 << 30)) is None
    assert not states.exists()


@pytest.mark.parametrize("damage", ["short", "long", "exposed"])
def test_a_salt_that_is_damaged_or_exposed_is_replaced(states: Path, damage: str) -> None:
    salt = tenant_salt(KEYED)
    [path] = states.iterdir()
    match damage:
        case "short":
            path.write_bytes(b"short")
        case "long":
            path.write_bytes(bytes(33))
        case "exposed":
            path.chmod(0o644)
    fresh = tenant_salt(KEYED)
    assert fresh is not None and fresh != salt and tenant_salt(KEYED) == fresh


@pytest.mark.parametrize("obstacle", ["a file", "a link", "a folder"])
def test_where_none_can_be_kept_the_server_goes_without(
    states: Path, obstacle: str, caplog: pytest.LogCaptureFixture
) -> None:
    match obstacle:
        case "a file":
            states.parent.mkdir()
            states.write_bytes(b"")
        case "a link":
            states.mkdir(parents=True)
            (states / "tenants.salt").symlink_to("/dev/zero")
        case "a folder":
            (states / "tenants.salt").mkdir(parents=True)
    assert tenant_salt(KEYED) is None
    assert "not found again after a restart" in caplog.text


def test_servers_that_start_at_once_have_one_salt(states: Path) -> None:
    found: list[bytes | None] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        found.append(tenant_salt(KEYED))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1 and None not in found
    assert [path.name for path in states.iterdir()] == ["tenants.salt"]


def tenant(key: str, salt: bytes | None) -> str:
    guard = Guard(KEYED.api_keys, "0.0.0.0", "0.0.0.0", salt=salt)
    return guard.identify({"headers": [(b"x-api-key", key.encode())]}).tenant


def test_with_it_a_tenant_has_the_same_name_after_a_restart() -> None:
    salt = tenant_salt(KEYED)
    assert tenant("sesame", salt) == tenant("sesame", salt) != tenant("other", salt)
    assert tenant("sesame", b"another" * 4) != tenant("sesame", salt)
    assert tenant("sesame", None) != tenant("sesame", None)
