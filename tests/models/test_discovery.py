"""Which places are searched, and in which order."""

from pathlib import Path

import pytest

from shimmy.core.settings import Settings
from shimmy.models.discovery import sources_from, split_paths


def places(settings: Settings, environ: dict[str, str]) -> list[tuple[str, str]]:
    return [(source.label, source.place) for source in sources_from(settings, environ)]


def test_the_order_of_all_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    settings = Settings(model_path="/one.gguf", model_dirs=("/two", "three"))
    environ = {"SHIMMY_MODEL_PATHS": "/four;/five", "SHIMMY_BASE_GGUF": "/six/base.gguf"}
    assert places(settings, environ) == [
        ("--model-path", "/one.gguf"),
        ("--model-dirs", "/two"),
        ("--model-dirs", f"{tmp_path}/three"),
        ("SHIMMY_MODEL_PATHS", "/four"),
        ("SHIMMY_MODEL_PATHS", "/five"),
        ("SHIMMY_BASE_GGUF", "/six/base.gguf"),
        ("folder of SHIMMY_BASE_GGUF", "/six"),
        ("models folder", f"{tmp_path}/models"),
        ("data folder", "/data/shimmy/models"),
        ("Shimmy's store", "/data/shimmy/store/manifests"),
        ("Hugging Face cache", "/home/someone/.cache/huggingface/hub"),
        ("Ollama store", "/home/someone/.ollama/models"),
        ("Ollama store", "/usr/share/ollama/.ollama/models"),
        ("LM Studio", "/home/someone/.lmstudio/models"),
        ("LM Studio", "/home/someone/.cache/lm-studio/models"),
    ]


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"HF_HUB_CACHE": "/hub", "HF_HOME": "/home"}, "/hub"),
        ({"HF_HOME": "/hf"}, "/hf/hub"),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/huggingface/hub"),
    ],
)
def test_where_the_hugging_face_cache_lies(environ: dict[str, str], place: str) -> None:
    assert ("Hugging Face cache", place) in places(Settings(), environ)


def test_where_the_ollama_store_lies() -> None:
    assert ("Ollama store", "/store") in places(Settings(), {"OLLAMA_MODELS": "/store"})


def test_a_base_model_that_is_a_folder_is_searched_as_one(tmp_path: Path) -> None:
    listed = places(Settings(), {"SHIMMY_BASE_GGUF": str(tmp_path)})
    assert listed[0] == ("SHIMMY_BASE_GGUF", str(tmp_path))
    assert "folder of SHIMMY_BASE_GGUF" not in dict(listed)


def test_only_named_files_are_listed_whatever_they_hold() -> None:
    sources = sources_from(Settings(model_path="/one.gguf"), {"SHIMMY_BASE_GGUF": "/two.gguf"})
    assert [source.label for source in sources if source.named] == ["--model-path", "SHIMMY_BASE_GGUF"]


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("", []),
        ("/a", ["/a"]),
        ("/a;/b; ", ["/a", "/b"]),
        ("/a:/b", ["/a", "/b"]),
        ("/a:/b;/c", ["/a", "/b", "/c"]),
    ],
)
def test_paths_are_split_at_both_separators(text: str, paths: list[str]) -> None:
    assert split_paths(text, separator=":") == paths


def test_a_folder_with_a_colon_in_its_name_stays_whole(tmp_path: Path) -> None:
    folder = tmp_path / "a:b"
    folder.mkdir()
    assert split_paths(f"{folder};/c", separator=":") == [str(folder), "/c"]


def test_drive_letters_stay_whole_where_the_separator_is_a_semicolon() -> None:
    assert split_paths(r"C:\models;D:\more", separator=";") == [r"C:\models", r"D:\more"]
