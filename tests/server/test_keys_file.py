"""The file of API keys: what it says, and who else may have written it."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.keys import ApiKey
from shimmy.server.keys_file import KeysFileError, _parsed, read_keys

DIGEST = hashlib.sha256(b"hidden").hexdigest()
FILE = f"""
# a comment
plain
 named   name=ci scope=admin,infer   # and why
slow rpm=60 tpm=10000 concurrent=2
sha256:{DIGEST} name=hashed
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.touch(0o600)
    return path


def test_a_file(file: Path) -> None:
    file.write_text(FILE)
    keys, doubt = read_keys(str(file))
    infer = frozenset({"infer"})
    assert doubt is None
    assert keys == (
        ApiKey.of("plain", scopes=infer),
        ApiKey.of("named", name="ci", scopes=frozenset({"infer", "admin"})),
        ApiKey.of("slow", scopes=infer, requests_per_minute=60, tokens_per_minute=10000, max_concurrent=2),
        ApiKey.of("hidden", name="hashed", scopes=infer),
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no key"),
        ("# nothing\n\n", "no key"),
        ("secret\nsecret", "line 2: .* twice"),
        (f"hidden\nsha256:{DIGEST}", "twice"),
        ("\nsecret other-secret", "line 2: there is an unknown option"),
        ("secret rpm=0", "rpm="),
        ("secret rpm=-1", "rpm="),
        ("secret rpm=1.5", "rpm="),
        ("secret rpm=", "rpm="),
        ("secret tpm=1e9", "tpm="),
        ("secret concurrent=\N{ARABIC-INDIC DIGIT ONE}", "concurrent="),
        ("secret scope=root", "scope="),
        ("secret scope=", "scope="),
        ("secret name=a/b", "name="),
        ("secret name=" + "x" * 65, "name="),
        ("schl\u00fcssel", "visible ASCII"),
        ("secret" * 200_000, "larger"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_not_shown(content: str, reason: str, file: Path) -> None:
    file.write_text(content)
    with pytest.raises(KeysFileError, match=reason) as refused:
        read_keys(str(file))
    assert str(refused.value).startswith(str(file)) and "secret" not in str(refused.value).removeprefix(str(file))


def test_what_is_no_text_or_no_file(file: Path) -> None:
    file.write_bytes(b"\xff")
    for path, reason in ((file, "UTF-8"), (file / "below", "Not a directory"), (file.parent, "directory")):
        with pytest.raises(KeysFileError, match=reason):
            read_keys(str(path))


@pytest.mark.parametrize(
    ("mode", "content", "doubt"),
    [
        (0o600, "plain", None),
        (0o400, "plain", None),
        (0o640, "plain", "others may read"),
        (0o644, "plain", "others may read"),
        (0o644, f"sha256:{DIGEST}", None),
        (0o644, f"# plain\nsha256:{DIGEST}", None),
    ],
)
def test_who_may_read_it(mode: int, content: str, doubt: str | None, file: Path) -> None:
    file.write_text(content)
    file.chmod(mode)
    said = read_keys(str(file))[1]
    assert said is None if doubt is None else doubt in (said or "")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_nobody_else_may_write_it(mode: int, file: Path) -> None:
    file.write_text("plain")
    file.chmod(mode)
    with pytest.raises(KeysFileError, match="others may write"):
        read_keys(str(file))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_nor_own_it(file: Path) -> None:
    file.write_text("plain")
    os.chown(file, 12345, -1)
    with pytest.raises(KeysFileError, match="others may write"):
        read_keys(str(file))


@given(st.binary(max_size=200))
def test_any_content_is_keys_or_an_error(content: bytes) -> None:
    try:
        assert _parsed("keys", content)
    except KeysFileError as error:
        assert str(error).startswith("keys")
