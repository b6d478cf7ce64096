"""Hosts, their addresses, and URLs that lead to them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import Forbidden, PullFailed, RequestError
from shimmy.store.hosts import Hosts, Origin, is_public, parse_url

KNOWN = Hosts.from_environ({})


@pytest.mark.parametrize(
    "host",
    ["huggingface.co", "cdn-lfs.huggingface.co", "cas-bridge.xethub.hf.co", "registry.ollama.ai", "ollama.com"],
)
def test_known_hosts(host: str) -> None:
    KNOWN.check(Origin(host))
    with pytest.raises(Forbidden):
        KNOWN.check(Origin(host, 8443))


@pytest.mark.parametrize("host", ["huggingface.co.evil.example", "evilhuggingface.co", "example.com", "localhost", ""])
def test_other_hosts(host: str) -> None:
    with pytest.raises(Forbidden):
        KNOWN.check(Origin(host))


def test_hosts_that_were_named() -> None:
    hosts = Hosts.from_environ(
        {"SHIMMY_PULL_HOSTS": "one.example, two.example:8443", "HF_ENDPOINT": "https://hub:9/x/"}
    )
    for origin in (Origin("one.example"), Origin("two.example", 8443), Origin("hub", 9)):
        hosts.check(origin)
        assert hosts.addresses(origin, lambda host, port: ["10.0.0.1"]) == ["10.0.0.1"]
    assert str(hosts.hub) == "https://hub:9/x"
    with pytest.raises(Forbidden):
        hosts.check(Origin("two.example"))


@pytest.mark.parametrize(
    "environ",
    [
        {"HF_ENDPOINT": "http://mirror.example"},
        {"HF_ENDPOINT": "mirror.example"},
        {"SHIMMY_PULL_HOSTS": "https://mirror.example"},
        {"SHIMMY_PULL_HOSTS": "mirror.example:0"},
        {"HF_TOKEN": "a\nHost: x"},
        {"HF_TOKEN": "tökén"},
    ],
)
def test_variables_that_make_no_sense(environ: dict[str, str]) -> None:
    with pytest.raises(RequestError):
        Hosts.from_environ(environ)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
        ),
        *(
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "::1",
            "::",
            "fe80::1%eth0",
            "fc00::1",
            "ff02::1",
            "fec0::1",
            "::127.0.0.1",
            "64:ff9b:1::1",
        ),
        # Private ones within IPv6: mapped, 6to4, Teredo, NAT64.
        # Translated ones (RFC 2765), and what was never given to anyone.
        *("::ffff:0:7f00:1", "4000::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::", "64:ff9b::7f00:1", "64:ff9b::a00:1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(Forbidden, match="no public address"):
        KNOWN.addresses(Origin("huggingface.co"), lambda host, port: [address])


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_addresses_that_are(address: str) -> None:
    assert is_public(address)


def test_only_the_public_ones_are_connected_to() -> None:
    origin = Origin("huggingface.co")
    assert KNOWN.addresses(origin, lambda host, port: ["10.0.0.1", "1.1.1.1", "::1"]) == ["1.1.1.1"]

    def nothing(host: str, port: int) -> list[str]:
        raise OSError("no such host")

    with pytest.raises(OSError, match="no such host"):
        KNOWN.addresses(origin, nothing)
    with pytest.raises(PullFailed):
        KNOWN.addresses(Origin(f"{'a' * 64}.huggingface.co"))


@given(st.text(max_size=60) | st.text(max_size=30).map("https://huggingface.co/{}".format))
def test_a_url_is_one_line_of_visible_ascii(text: str) -> None:
    try:
        url = parse_url(text)
    except Forbidden:
        return
    assert url.target.startswith("/") and url.target.isascii() and url.target.isprintable() and " " not in url.target
    assert parse_url(str(url)) == url
