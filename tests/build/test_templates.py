import io
import tarfile
from pathlib import Path

import pytest

from build import native, templates
from build.fetch import Artifact

TOP = native.SOURCE.file_name.removesuffix(".tar.gz")
WHERE = f"{TOP}/vendor/llama.cpp/models/templates"


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A small source distribution, and how often it was fetched."""
    monkeypatch.setenv("SHIMMY_BUILD_CACHE", str(tmp_path / "cache"))
    fetches: list[str] = []

    def fetch(artifact: Artifact, folder: Path) -> Path:
        fetches.append(artifact.file_name)
        folder.mkdir(parents=True)
        with tarfile.open(folder / artifact.file_name, "w:gz") as tar:
            names = ("a.jinja", "b.jinja", "README.md", "deeper/c.jinja", "../d.jinja")
            for name in [f"{WHERE}/{name}" for name in names] + [f"{TOP}/e.jinja"]:
                member = tarfile.TarInfo(name)
                member.size = len(name)
                tar.addfile(member, io.BytesIO(name.encode()))
        return folder / artifact.file_name

    monkeypatch.setattr(templates, "fetch", fetch)
    return fetches


def test_the_templates_alone_are_taken_once(fetched: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    templates.main()
    templates.main()
    folder = templates.folder()
    assert capsys.readouterr().out == f"{folder}\n" * 2
    assert sorted(path.name for path in folder.iterdir()) == ["a.jinja", "b.jinja"]
    assert (folder / "a.jinja").read_text() == f"{WHERE}/a.jinja"
    assert fetched == [native.SOURCE.file_name]
    assert list((folder.parent / "work").iterdir()) == []
