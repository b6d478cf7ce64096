"""Ollama's key: read as OpenSSH writes it, and used for nobody but Ollama and hosts that were named."""

import base64
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_sign_seed_keypair

from shimmy.core.errors import PullFailed
from shimmy.core.secret import Secret
from shimmy.store.folder import Store
from shimmy.store.hosts import Hosts, Origin
from shimmy.store.ollama_key import Key, parse_key
from tests.fakes.hub import Hub, noise, sha256
from tests.store.conftest import pull

SMALL = noise(50_000)
POINT, PRIVATE = crypto_sign_seed_keypair(b"7" * 32)


def string(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


PUBLIC = string(b"ssh-ed25519") + string(POINT)
INNER = b"1234" * 2 + string(b"ssh-ed25519") + string(POINT) + string(PRIVATE) + string(b"") + b"\1\2\3"


def written(inner: bytes = INNER, cipher: bytes = b"none", magic: bytes = b"openssh-key-v1\0", count: int = 1) -> str:
    content = magic + string(cipher) + string(b"none") + string(b"") + struct.pack(">I", count)
    return enclosed(content + string(PUBLIC) + string(inner))


def enclosed(content: bytes) -> str:
    lines = base64.encodebytes(content).decode()
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{lines}-----END OPENSSH PRIVATE KEY-----\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    (folder / ".ollama").mkdir(parents=True)
    (folder / ".ollama/id_ed25519").write_text(written())
    return folder


def test_a_key() -> None:
    assert parse_key(written()) == Key(PUBLIC, Secret(PRIVATE))


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")
def test_a_key_that_openssh_made(tmp_path: Path) -> None:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    public = path.with_suffix(".pub").read_text().split()[1]
    key = parse_key(path.read_text())
    assert base64.b64encode(key.public).decode() == public
    assert crypto_sign_seed_keypair(key.private.value[:32]) == (key.private.value[32:], key.private.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no private key in OpenSSH's format"),
        ("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----", "no private key in OpenSSH's format"),
        (enclosed(b""), "cut off"),
        (enclosed(b"x" * 100), "no private key in OpenSSH's format"),
        (written().replace("b3Blbn", "*****"), "no private key"),
        (written(cipher=b"aes256-ctr"), "has a password"),
        (written(count=2), "not one key"),
        (written(inner=b"12345678" + string(b"ssh-rsa")), "no Ed25519 key"),
        (written(inner=b"1234" * 2 + string(b"ssh-ed25519") + string(bytes(32)) + string(PRIVATE)), "damaged"),
        (written(inner=INNER[:60]), "cut off"),
    ],
)
def test_files_that_are_no_key(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_key(text)


@given(st.binary(max_size=200))
def test_whatever_is_in_the_file(content: bytes) -> None:
    with pytest.raises(ValueError, match="it "):
        parse_key(enclosed(b"openssh-key-v1\0" + content))


def test_who_asks_is_signed(hub: Hub, store: Store, home: Path) -> None:
    hub.images["library/tiny:1b"] = SMALL
    hub.faults.challenge, hub.signer = "", PUBLIC
    manifest, _ = pull(
        hub,
        store,
        f"{hub.origin}/library/tiny:1b",
        SHIMMY_PULL_HOSTS=f"{hub.files_origin} {hub.origin}",
        HOME=str(home),
    )
    assert manifest.parts[0].sha256 == sha256(SMALL)
    [asked] = [each for each in hub.seen if each.path.startswith("/token?")]
    assert "nonce=" in asked.path and "ts=" in asked.path
    assert "Bearer" not in (asked.authorization or "")


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (None, "must be the key of somebody who may have it"),
        (written(cipher=b"aes"), "cannot be used: it has a password"),
    ],
)
def test_who_may_not_have_a_model_is_told_why(hub: Hub, store: Store, home: Path, key: str | None, why: str) -> None:
    hub.images["library/tiny:1b"] = SMALL
    hub.faults.challenge, hub.signer = "", PUBLIC
    (home / ".ollama/id_ed25519").unlink()
    if key is not None:
        (home / ".ollama/id_ed25519").write_text(key)
    with pytest.raises(PullFailed, match=rf"status 401\); .*~/.ollama/id_ed25519 {why}"):
        pull(hub, store, f"{hub.origin}/library/tiny:1b", HOME=str(home))


def test_nobody_gets_a_token_that_is_for_another_registry(home: Path) -> None:
    """A registry may send us anywhere for a token, and is told that then."""
    ours, theirs = Origin("registry.ollama.ai"), Origin("mirror.example")
    hosts = Hosts.from_environ({"HOME": str(home), "SHIMMY_PULL_HOSTS": "mirror.example other.example"})
    assert hosts.key_for(ours, Origin("ollama.com")) == hosts.key_for(theirs, theirs) == parse_key(written())
    for registry, asked in (
        (theirs, Origin("ollama.com")),
        (ours, theirs),
        (Origin("other.example"), theirs),
        (Origin("huggingface.co"), Origin("huggingface.co")),
        (ours, Origin("ollama.com", 8443)),
    ):
        assert hosts.key_for(registry, asked) is None
    assert "7777" not in repr(hosts)
