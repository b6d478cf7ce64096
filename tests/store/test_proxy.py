"""Pulls through a proxy on this machine, and what the variables mean that name one."""

import socket
import threading
from collections.abc import Iterator

import pytest

from shimmy.core.errors import Forbidden, PullFailed, RequestError
from shimmy.store import hosts
from shimmy.store.folder import Store
from shimmy.store.hosts import Hosts, Origin
from shimmy.store.http import Cancelled
from shimmy.store.proxy import proxy_from
from shimmy.store.pull import Pull
from tests.fakes.hub import Hub, noise
from tests.fakes.proxy import Proxy, running_proxy
from tests.store.conftest import pull

USER = "us%40r:p%3Ass"
PLAIN_USER = "us@r:p:ss"
SMALL = noise(100_000)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with running_proxy() as proxy:
        yield proxy


@pytest.fixture
def repository(hub: Hub) -> Hub:
    hub.repositories["org/tiny"] = {"tiny-q4_0.gguf": SMALL}
    return hub


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_everything_comes_through_the_proxy(repository: Hub, store: Store, proxy: Proxy, variable: str) -> None:
    manifest, _ = pull(repository, store, "org/tiny", **{variable: proxy.url})
    assert manifest.size == len(SMALL)
    assert set(proxy.asked) == {repository.origin, repository.files_origin}
    assert len(proxy.asked) == len(repository.seen)


def test_a_proxy_that_wants_a_password(repository: Hub, store: Store) -> None:
    with running_proxy(PLAIN_USER) as proxy:
        at = f"127.0.0.1:{proxy.port}"
        pull(repository, store, "org/tiny", HTTPS_PROXY=f"http://{USER}@{at}")
        for wrong in (f"http://{at}", f"http://me:secret@{at}"):
            with pytest.raises(PullFailed, match="status 407 Who are you: it wants another user") as raised:
                pull(repository, store, "org/tiny", HTTPS_PROXY=wrong)
            assert "secret" not in str(raised.value)
        assert repository.seen and all(each.authorization is None for each in repository.seen)


def test_names_that_only_the_proxy_can_find(repository: Hub, store: Store, proxy: Proxy) -> None:
    """It is asked for a host by its name, and the certificate still has to be that host's."""
    proxy.names["elsewhere.invalid"] = int(repository.origin.rpartition(":")[2])
    environ = {"HF_ENDPOINT": "https://elsewhere.invalid", "HTTPS_PROXY": proxy.url}
    with pytest.raises(PullFailed, match="certificate of elsewhere.invalid is not trusted"):
        pull(repository, store, "org/tiny", **environ)
    assert proxy.asked == ["elsewhere.invalid:443"]


def test_hosts_that_nobody_named_are_not_asked_for(repository: Hub, store: Store, proxy: Proxy) -> None:
    repository.faults.redirect = "https://evil.example/file"
    with pytest.raises(Forbidden, match=r"evil\.example is not among the hosts"):
        pull(repository, store, "org/tiny", HTTPS_PROXY=proxy.url)
    assert set(proxy.asked) == {repository.origin}


def test_hosts_that_are_reached_without_the_proxy(repository: Hub, store: Store, proxy: Proxy) -> None:
    pull(repository, store, "org/tiny", HTTPS_PROXY=proxy.url, NO_PROXY="10.0.0.0/8, 127.0.0.0/8")
    assert set(proxy.asked) == {repository.files_origin}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "status 403 Forbidden for 127.0.0.1"),
        (b"HTTP/1.1 407 \x1b[2J\r\nProxy-Authenticate: Negotiate\r\n\r\n", r"status 407 \[2J: it wants"),
        (b"HTTP/1.1 502 Bad\r\n\r\n" * 1, "status 502 Bad"),
        (b"", "does not answer as a proxy does"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "does not answer as a proxy does"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 4000, "does not answer as a proxy does"),
    ],
)
def test_a_proxy_that_opens_no_tunnel(
    repository: Hub, store: Store, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, answer: bytes, said: str
) -> None:
    monkeypatch.setattr("shimmy.store.pull._TRIES", 1)
    proxy.answers = [answer]
    with pytest.raises(PullFailed, match=said):
        pull(repository, store, "org/tiny", HTTPS_PROXY=proxy.url)
    assert repository.seen == []


def test_a_proxy_that_fails_for_a_moment(repository: Hub, store: Store, proxy: Proxy) -> None:
    proxy.answers = [b"HTTP/1.1 503 Busy\r\n\r\n", b""]
    pull(repository, store, "org/tiny", HTTPS_PROXY=proxy.url)


def test_a_proxy_that_is_not_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shimmy.store.pull._TRIES", 1)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        environ = {"HTTPS_PROXY": f"http://me:secret@127.0.0.1:{port}"}
        with pytest.raises(PullFailed, match=rf"the proxy 127.0.0.1:{port} \(HTTPS_PROXY\)") as raised:
            Pull.from_environ(store, environ, lambda progress: None).run("org/repo")
    assert "secret" not in str(raised.value)


def test_a_pull_that_waits_for_a_proxy_can_be_cancelled(store: Store) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        environ = {"HTTPS_PROXY": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        one = Pull.from_environ(store, environ, lambda progress: None)
        ended: list[BaseException] = []

        def run() -> None:
            try:
                one.run("org/repo")
            except BaseException as error:
                ended.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        connection, _ = silent.accept()
        with connection:
            one.cancel()
            thread.join(60)
        assert [type(error) for error in ended] == [Cancelled]


@pytest.mark.parametrize(
    ("variables", "at"),
    [
        ({"HTTPS_PROXY": "proxy.example:3128"}, ("proxy.example", 3128)),
        ({"HTTPS_PROXY": "http://proxy.example/"}, ("proxy.example", 1080)),
        ({"HTTPS_PROXY": "http://[fd00::1]:8080"}, ("fd00::1", 8080)),
        ({"HTTPS_PROXY": "http://one", "https_proxy": "http://two", "ALL_PROXY": "http://three"}, ("two", 1080)),
        ({"HTTPS_PROXY": " ", "ALL_PROXY": "http://three"}, ("three", 1080)),
        ({"HTTP_PROXY": "http://one"}, None),
        ({}, None),
    ],
)
def test_variables(variables: dict[str, str], at: tuple[str, int] | None) -> None:
    found = proxy_from(variables)
    assert (found and (found.host, found.port)) == at


@pytest.mark.parametrize(
    "value",
    ["socks5://me:secret@proxy", "https://me:secret@proxy", "http://me:secret@proxy:x", "http://me:secret@"]
    + ["http://secret/1@proxy", "http://me:80#secret@proxy", "http://secret:80?1@proxy"],
)
def test_proxies_that_are_not_used(value: str) -> None:
    with pytest.raises(RequestError, match="ALL_PROXY") as raised:
        Hosts.from_environ({"ALL_PROXY": value})
    assert "secret" not in str(raised.value)


def test_a_password_is_not_shown() -> None:
    assert "c2VjcmV0" not in repr(proxy_from({"HTTPS_PROXY": "http://:secret@proxy"}))


@pytest.mark.parametrize(
    ("exceptions", "origin", "is_excepted"),
    [
        ("*", Origin("huggingface.co"), True),
        ("huggingface.co", Origin("huggingface.co"), True),
        (".huggingface.co", Origin("cdn.huggingface.co"), True),
        ("one,HuggingFace.co", Origin("cdn.huggingface.co"), True),
        ("huggingface.co:443", Origin("huggingface.co"), True),
        ("huggingface.co:8443", Origin("huggingface.co"), False),
        ("face.co", Origin("huggingface.co"), False),
        ("10.0.0.0/8 fd00::/8", Origin("10.1.2.3"), True),
        ("10.0.0.0/8 fd00::/8", Origin("fd00::7"), True),
        ("[fd00::7]:8443", Origin("fd00::7", 8443), True),
        ("10.0.0.0/8", Origin("11.0.0.1"), False),
        ("10.0.0.0/99", Origin("10.1.2.3"), False),
        (", .", Origin("huggingface.co"), False),
    ],
)
def test_exceptions(exceptions: str, origin: Origin, is_excepted: bool) -> None:
    hosts_of = Hosts.from_environ({"HTTPS_PROXY": "http://proxy", "NO_PROXY": exceptions})
    assert (hosts_of.proxy_to(origin) is None) == is_excepted


def test_addresses_are_checked_where_the_proxy_is_not_used(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_resolve", lambda host, port: ["10.0.0.1"])
    environ = {"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "huggingface.co"}
    with pytest.raises(Forbidden, match="no public address"):
        Pull.from_environ(store, environ, lambda progress: None).run("org/repo")
