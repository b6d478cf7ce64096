"""Names: what they mean, and that nothing else gets through."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import RequestError
from shimmy.store.manifests import file_name, name_of
from shimmy.store.names import Reference, digest, local_name, parse, revision

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("org/repo", Reference("huggingface", "hf.co", "org", "repo")),
        ("Org/Repo-1.5_x:Q4_K_M", Reference("huggingface", "hf.co", "Org", "Repo-1.5_x", "Q4_K_M")),
        ("hf.co/org/repo:q8_0", Reference("huggingface", "hf.co", "org", "repo", "q8_0")),
        ("https://huggingface.co/org/repo/", Reference("huggingface", "hf.co", "org", "repo")),
        ("org/repo/Q4/a.gguf", Reference("huggingface", "hf.co", "org", "repo", file="Q4/a.gguf")),
        ("llama3.2", Reference("ollama", "registry.ollama.ai", "library", "llama3.2")),
        ("llama3.2:1b", Reference("ollama", "registry.ollama.ai", "library", "llama3.2", "1b")),
        (
            "https://ollama.com/library/LLAMA3.2:1b",
            Reference("ollama", "registry.ollama.ai", "library", "llama3.2", "1b"),
        ),
        ("registry.ollama.ai/me/mine:x", Reference("ollama", "registry.ollama.ai", "me", "mine", "x")),
        ("localhost:5000/me/mine", Reference("ollama", "localhost:5000", "me", "mine")),
    ],
)
def test_what_names_mean(name: str, reference: Reference) -> None:
    assert parse(name) == reference


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "..",
        "../../etc/passwd",
        "org/..",
        "org/../x",
        "org/repo/../../x.gguf",
        "org/repo/..%2fx.gguf",
        "org/repo/.hidden.gguf/x.gguf",
        "org/re po",
        "org/repo:",
        "org/repo:a/b",
        "org/repo:..",
        "org/repo:Q4\n",
        "org/repo?x=1",
        "org/repo#x",
        "org\\repo",
        "C:\\models\\x",
        "org/repo%00",
        "org/repo\0",
        "http://huggingface.co/org/repo",
        "file:///etc/passwd",
        "huggingface.co/datasets/org/repo",
        "host:99999/a/b",
        "host:0/a/b",
        "a..b/c/d",
        "user@host/a/b",
        "[::1]:80/a/b",
        # The first letters are Cyrillic; the slash is no slash; the digit is Arabic; the letters are full-width.
        "оrg/repo",
        "org∕repo",
        "org/repo:Q٤_0",
        "ｏrg/repo",
        "org/repo\u200b",
        "org/" + "x" * 200,
    ],
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(RequestError):
        parse(name)


@given(st.text(alphabet=st.sampled_from("aB3._-/:@%\\ \n\0оａ"), max_size=24) | st.text(max_size=40))
def test_whatever_is_parsed_is_plain(name: str) -> None:
    try:
        found = parse(name)
    except RequestError:
        return
    for part in (found.namespace, found.model, found.tag or "x", *(found.file or "x").split("/")):
        assert re.fullmatch(r"[A-Za-z0-9._-]+", part, re.ASCII) and ".." not in part and part[0] != "."
    assert re.fullmatch(r"[a-z0-9.-]+(:\d+)?", found.host)
    stored = found.named(found.tag or "latest")
    assert parse(stored) == parse(stored.removeprefix("https://"))
    assert local_name(stored) == stored


@given(st.text(alphabet=st.sampled_from("aB3._-/:%\\ \n\0оａ"), max_size=24) | st.text(max_size=40))
def test_names_become_single_files(name: str) -> None:
    try:
        local_name(name)
    except RequestError:
        return
    file = file_name(name)
    assert re.fullmatch(r"[a-z0-9_.%A-F-]+\.json", file) and not file.startswith(".") and len(file) < 255
    assert name_of(file) == name.lower()


@pytest.mark.parametrize("text", ["main", "v1.0", "refs/pr/12", "a" * 40])
def test_revisions(text: str) -> None:
    assert revision(text) == text


@pytest.mark.parametrize("text", ["", "../x", "a..b", "a//b", "-x", "a b", "a?b", "mаin", "x\n"])
def test_what_is_no_revision(text: str) -> None:
    with pytest.raises(RequestError):
        revision(text)


@given(
    st.text() | st.text(alphabet="0123456789abcdef", min_size=60, max_size=66).map("sha256:{}".format) | st.integers()
)
def test_a_digest_is_64_hex_digits_or_nothing(text: object) -> None:
    try:
        found = digest(text)
    except ValueError:
        assert not (isinstance(text, str) and re.fullmatch(r"sha256:[0-9a-f]{64}", text, re.ASCII))
    else:
        assert text == f"sha256:{found}" and re.fullmatch(r"[0-9a-f]{64}", found, re.ASCII)


@pytest.mark.parametrize(
    "text", [HEX, f"sha256:{HEX.upper()}", f"sha256:{HEX}\n", f"sha256-{HEX}", f"sha512:{HEX}", None]
)
def test_what_is_no_digest(text: object) -> None:
    with pytest.raises(ValueError):
        digest(text)
