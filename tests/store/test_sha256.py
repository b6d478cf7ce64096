"""The same digests, whoever computes them."""

import hashlib
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.store import sha256 as module
from shimmy.store.sha256 import LibcryptoHash, libcrypto, sha256


@pytest.fixture(scope="module")
def library() -> Any:
    found = libcrypto()
    if found is None:
        pytest.skip("OpenSSL is a part of this interpreter")
    return found


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_both_have_the_same_digests(library: Any, pieces: list[bytes]) -> None:
    one, other = LibcryptoHash(library), hashlib.sha256()
    for piece in pieces:
        one.update(piece)
        other.update(piece)
    assert one.hexdigest() == other.hexdigest() == one.hexdigest()


def test_none_is_computed_without_memory(library: Any) -> None:
    class Exhausted:
        def __getattr__(self, name: str) -> Any:
            return (lambda: None) if name == "EVP_MD_CTX_new" else getattr(library, name)

    with pytest.raises(MemoryError):
        LibcryptoHash(Exhausted())


def test_threads_may_go_on_to_the_end_of_the_interpreter(library: Any) -> None:
    """Nothing is freed before that is still at work."""
    script = """
import sys, threading
from shimmy.store.sha256 import LibcryptoHash, libcrypto

def compute(begun):
    own, piece = LibcryptoHash(libcrypto()), bytes(1 << 22)
    while True:
        own.update(piece)
        begun.set()

for _ in range(4):
    begun = threading.Event()
    threading.Thread(target=compute, args=[begun], daemon=True).start()
    begun.wait()
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", script], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_without_openssl_in_hashlib_it_is_taken_from_tls(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    built_in = vars(hashlib)["__get_builtin_constructor"]("sha256")
    monkeypatch.setattr(hashlib, "sha256", built_in)
    assert isinstance(sha256(), LibcryptoHash)
    monkeypatch.setattr(module, "libcrypto", lambda: None)
    assert type(sha256()) is type(built_in())


def test_without_tls_none_is_loaded() -> None:
    """Neither is it looked for in the system."""
    script = "import sys; sys.modules['ssl'] = None; from shimmy.store.sha256 import libcrypto; print(libcrypto())"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "None\n"
