"""Names: the original's rule for files, Ollama's for its store, and one that never changes for every path."""

import pytest

from shimmy.models.names import name_in_ollama, name_of_file, name_of_folder, qualified, shards_of, title_of_folder


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/m/Phi-3-mini-4k_Q4.gguf", "phi-3-mini-4k-q4"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct.q4-1"),
        ("a b.GGUF", "a-b"),
        ("Qwen2.5-00001-of-00004.gguf", "qwen2.5"),
        ("weights.bin", "weights.bin"),
        ("sha256-abc", "sha256-abc"),
        ("line\nbreak\x1b[31m\x9b.gguf", "line-break-[31m-"),
        ("bad\udcff.gguf", "bad?"),
    ],
)
def test_a_file_is_called_by_its_stem(path: str, name: str) -> None:
    assert name_of_file(path) == name


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("registry.ollama.ai", "library", "llama3.2", "1b"), "llama3.2:1b"),
        (("registry.ollama.ai", "someone", "model", "latest"), "someone/model:latest"),
        (("hf.co", "org", "Repo-GGUF", "Q4_K_M"), "hf.co/org/Repo-GGUF:Q4_K_M"),
        (("example.com", "library", "model", "v1"), "example.com/library/model:v1"),
    ],
)
def test_a_model_of_ollama_is_called_as_there(parts: tuple[str, str, str, str], name: str) -> None:
    assert name_in_ollama(*parts) == name


def test_a_qualified_name_depends_on_the_path_alone() -> None:
    assert qualified("a", "/one/a.gguf") == "a@cbf93ec7" == qualified("a", "/one/a.gguf")
    assert qualified("a", "/two/a.gguf") != qualified("a", "/one/a.gguf")


def test_shards_of_a_set() -> None:
    assert shards_of("/m/x-00002-of-00003.gguf") == [f"/m/x-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


@pytest.mark.parametrize("name", ["x.gguf", "x-00004-of-00003.gguf", "x-00000-of-00003.gguf", "x-00001-of-99999.gguf"])
def test_what_is_no_shard(name: str) -> None:
    assert shards_of(name) is None


@pytest.mark.parametrize(
    ("path", "title", "name"),
    [
        ("/models/Qwen3_0.6B Base", "Qwen3_0.6B Base", "qwen3-0.6b-base"),
        ("/hub/models--Org--Some_Model/snapshots/0123abcd", "Some_Model", "some-model"),
        ("/snapshots/A", "A", "a"),
        ("/odd/\x1bname", "-name", "-name"),
    ],
)
def test_folders(path: str, title: str, name: str) -> None:
    assert (title_of_folder(path), name_of_folder(path)) == (title, name)
