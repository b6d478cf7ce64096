"""Which part of the executable a file belongs to, by the names that files have in it on each system."""

import pytest

from build import contents, sbom
from build.contents import INTERPRETER, SHARED, STANDARD_LIBRARY


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("libpython3.11.so.1.0", INTERPRETER),
        ("python3.11/lib-dynload/_socket.cpython-311-x86_64-linux-gnu.so", STANDARD_LIBRARY),
        ("msgspec/_core.cpython-311-x86_64-linux-gnu.so", "msgspec"),
        ("libffi.so.8", SHARED),
        ("Python", INTERPRETER),
        ("Python.framework/Versions/3.11/Python", INTERPRETER),
        ("python3.11/lib-dynload/_socket.cpython-311-darwin.so", STANDARD_LIBRARY),
        ("python311.dll", INTERPRETER),
        ("python3.dll", INTERPRETER),
        ("_socket.pyd", STANDARD_LIBRARY),
        ("msgspec\\_core.cp311-win_amd64.pyd", "msgspec"),
        ("VCRUNTIME140.dll", SHARED),
        ("base_library.zip", STANDARD_LIBRARY),
    ],
)
def test_the_group_of_a_file(name: str, group: str) -> None:
    assert contents._group_of_file(name, "b") == group


def test_a_shared_library_is_known_by_any_of_its_names() -> None:
    names = ["libffi.so.8", "libffi-8.dll", "VCRUNTIME140.dll", "VCRUNTIME140_1.dll", "msvcp140.dll", "libgcc_s.so.1"]
    found = [component["name"] for component in sbom._shared_libraries(names)]
    assert found == ["gcc", "libffi", "microsoft-visual-cpp-runtime"]


def test_an_unknown_library_stops_the_build() -> None:
    with pytest.raises(SystemExit, match="libsecret"):
        sbom._shared_libraries(["libsecret.so.1"])


def test_of_the_carried_libraries_those_of_others_are_named() -> None:
    carried = ["libllama.so", "_ssl.cpython-311-x86_64-linux-gnu.so", "libcrypto.so.3", "libssl.so.3"]
    assert [component["name"] for component in sbom._shared_libraries([], carried)] == ["openssl"]
