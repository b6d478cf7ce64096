"""Text that a vocabulary cannot spell is refused before llama.cpp sees it, which would abort the process."""

from pathlib import Path

import pytest

from shimmy.core.errors import RequestError
from shimmy.core.ipc import EngineOptions
from shimmy.worker.llama.model import Model
from shimmy.worker.loading import load_engine
from tests.worker import tiny_models


def test_without_tokens_for_bytes_only_known_letters_are_tokenized(tmp_path: Path) -> None:
    tiny_models.full(tmp_path / "tiny.gguf")
    model: Model = load_engine([str(tmp_path / "tiny.gguf")], EngineOptions(), lambda fraction: None)._model
    with pytest.raises(RequestError, match="no tokens for") as caught:
        model.tokenize("hello", add_special=True)
    assert caught.value.param == "prompt"
    assert model.tokenize("", add_special=True) == [1]
