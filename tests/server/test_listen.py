import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from shimmy.core.keys import ApiKey
from shimmy.core.settings import DEFAULT_PORT, LAST_AUTO_PORT, Settings
from shimmy.server.listen import Listener, StartError, listen


def close(listener: Listener) -> None:
    socket.socket(fileno=listener.fd).close()


def test_port_0_is_any_free_one() -> None:
    listener = listen(Settings(bind="127.0.0.1:0"))
    try:
        assert listener.url == f"http://127.0.0.1:{listener.port}"
        socket.create_connection(("127.0.0.1", listener.port)).close()  # it listens already
    finally:
        close(listener)


def test_auto_takes_a_free_port() -> None:
    first = listen(Settings(bind="auto"))
    try:
        second = listen(Settings(bind="auto"))
        close(second)
    finally:
        close(first)
    # The second is not always the higher one: another program may just have left a port below the first.
    assert first.port != second.port
    assert all(DEFAULT_PORT <= each.port <= LAST_AUTO_PORT for each in (first, second))


def test_a_port_in_use_is_not_shared() -> None:
    first = listen(Settings(bind="127.0.0.1:0"))
    try:
        with pytest.raises(StartError, match=f"port {first.port} of 127.0.0.1 is in use") as caught:
            listen(Settings(bind=f"127.0.0.1:{first.port}"))
        assert caught.value.exit_code == 4
    finally:
        close(first)


@pytest.mark.parametrize(("system", "shared"), [("linux", True), ("darwin", True), ("win32", False)])
def test_an_address_is_taken_over_only_from_nobody(system: str, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option that allows it would on Windows take the port of a server that still listens."""
    monkeypatch.setattr(sys, "platform", system)
    listener = listen(Settings(bind="127.0.0.1:0"))
    with socket.socket(fileno=listener.fd) as ours:
        assert bool(ours.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) is shared


def test_names_are_resolved() -> None:
    listener = listen(Settings(bind="localhost:0"))
    close(listener)
    assert (listener.host, listener.address) == ("localhost", "127.0.0.1")


@pytest.mark.parametrize(
    "bind", ["", "11435", "localhost", ":11435", "host:", "host:x", "host:65536", "host:-1", "host:²"]
)
def test_what_is_no_address(bind: str) -> None:
    with pytest.raises(StartError, match="HOST:PORT") as caught:
        listen(Settings(bind=bind))
    assert caught.value.exit_code == 2


def test_an_address_of_nobody() -> None:
    with pytest.raises(StartError) as caught:
        listen(Settings(bind="no-such-host.invalid:0"))
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "fields", [{"api_keys": (ApiKey.of("key"),)}, {"api_keys_file": "keys"}, {"insecure_no_auth": True}]
)
def test_other_machines_need_a_key_or_a_word(fields: dict[str, object]) -> None:
    elsewhere = "192.0.2.1:0"  # RFC 5737: nobody's, so that it gets as far as the bind and no further
    with pytest.raises(StartError) as refused:
        listen(Settings(bind=elsewhere))
    assert refused.value.exit_code == 2
    with pytest.raises(StartError) as allowed:
        listen(Settings(bind=elsewhere, **fields))  # type: ignore[arg-type]
    assert allowed.value.exit_code == 4


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("10.1.2.3", "http://10.1.2.3:80"),
    ],
)
def test_the_url_works_from_here(address: str, url: str) -> None:
    assert Listener("host", address, 80, -1).url == url


needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no such sockets")


@needs_unix
@pytest.mark.parametrize(("suffix", "mode"), [("", 0o600), (",mode=660", 0o660)])
def test_a_unix_socket_is_for_whom_its_mode_says(suffix: str, mode: int, tmp_path: Path) -> None:
    before = os.umask(0o022)
    path = tmp_path / "s"
    listener = listen(Settings(bind=f"unix:{path}{suffix}"))
    try:
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert listener.url == listener.address == listener.host == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        assert os.umask(before) == 0o022
    finally:
        close(listener)
        listener.remove()
    assert not path.exists()


@needs_unix
def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    bind = f"unix:{tmp_path / 's'}"
    stale = listen(Settings(bind=bind))
    close(stale)
    listener = listen(Settings(bind=bind))
    stale.remove()
    assert (tmp_path / "s").exists(), "it was another one's by then"
    with pytest.raises(StartError, match="in use by another server") as caught:
        listen(Settings(bind=bind))
    assert caught.value.exit_code == 4
    close(listener)


@needs_unix
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_nothing_but_a_socket_is_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartError, match="something else than a socket") as caught:
        listen(Settings(bind=f"unix:{path}"))
    assert caught.value.exit_code == 4 and os.path.lexists(path)


@needs_unix
@pytest.mark.parametrize("path", ["/no/such/folder/s", "/" + "x" * 200])
def test_paths_where_no_socket_can_be(path: str) -> None:
    with pytest.raises(StartError, match="cannot listen on") as caught:
        listen(Settings(bind=f"unix:{path}"))
    assert caught.value.exit_code == 4
