"""What counts as changeable by somebody else. Whoever runs the tests may be root, to whom no other user belongs."""

import os
import struct
import sys
from pathlib import Path

import pytest

from shimmy.worker.llama.trust import exposure

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such modes")
NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data" / "backends"
    made.mkdir(parents=True)
    (made / "lib.so").write_bytes(b"")
    for path in (made.parent, made, made / "lib.so"):
        path.chmod(0o755)
    return made


def test_what_only_we_can_write_is_not_exposed(folder: Path) -> None:
    """The folder for temporary files, which everybody may write to, is sticky."""
    assert exposure(folder) is None
    assert exposure(folder / "lib.so") is None


@pytest.mark.parametrize("place", ["lib.so", ".", ".."])
@pytest.mark.parametrize("path", ["lib.so", "."])
def test_what_everybody_can_write_is_exposed(folder: Path, place: str, path: str) -> None:
    exposed = (folder / place).resolve()
    exposed.chmod(0o757)
    if (place, path) == ("lib.so", "."):
        assert exposure(folder) is None
    else:
        assert exposure((folder / path).resolve()) == f"others may write to {exposed} (mode 0757)"


def test_anybody_can_add_to_a_sticky_folder(folder: Path) -> None:
    folder.parent.chmod(0o1777)
    assert exposure(folder) is None
    folder.chmod(0o1777)
    assert exposure(folder) == exposure(folder / "lib.so") == f"others may write to {folder} (mode 1777)"


def test_what_belongs_to_somebody_else_is_exposed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, 0)
        owner = NOBODY
    else:
        owner = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert str(exposure(folder / "lib.so")).endswith(f"belongs to user {owner}")


class Groups:
    """The users and groups of a machine: we are anna."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, *members: str) -> None:
        import grp
        import pwd

        users = {0: "root", os.geteuid(): "anna"}
        monkeypatch.setattr(pwd, "getpwuid", lambda user: pwd.struct_passwd((users[user], "", 0, 0, "", "", "")))
        monkeypatch.setattr(grp, "getgrgid", lambda group: grp.struct_group((name, "", group, list(members))))


@pytest.mark.parametrize(
    ("name", "members", "private"),
    [
        ("anna", [], True),
        ("anna", ["anna"], True),
        ("anna", ["anna", "bert"], False),
        ("users", [], False),
        ("users", ["anna"], False),
    ],
)
def test_a_group_of_ones_own_is_no_exposure(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, members: list[str], private: bool
) -> None:
    Groups(monkeypatch, name, *members)
    folder.chmod(0o775)
    assert exposure(folder / "lib.so") == (None if private else f"others may write to {folder} (mode 0775)")


def test_a_user_without_a_name_has_no_group_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(user: int) -> None:
        raise KeyError(user)

    Groups(monkeypatch, "anna")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    folder.chmod(0o775)
    assert exposure(folder) == f"others may write to {folder} (mode 0775)"


def test_an_access_list_is_an_exposure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it grants hides in the bits of the group."""
    Groups(monkeypatch, "anna")
    try:
        os.setxattr(folder, "system.posix_acl_access", access_list(NOBODY))
    except (AttributeError, OSError):
        pytest.skip("there are no access lists here")
    assert folder.stat().st_mode & 0o777 == 0o775
    assert exposure(folder) == f"others may write to {folder} (mode 0775)"


def access_list(user: int) -> bytes:
    """For the owner, this user, the group, at most, and all others (linux/posix_acl_xattr.h)."""
    none = 0xFFFFFFFF
    entries = [(0x01, 7, none), (0x02, 7, user), (0x04, 5, none), (0x10, 7, none), (0x20, 5, none)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_what_is_not_there_is_an_error(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        exposure(folder / "nothing")
