"""A model that ranks, of random weights: its scores are those of a plain computation, one by one or all at once."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shimmy.core.errors import Unsupported
from shimmy.core.ipc import EngineOptions
from shimmy.core.request import Embedding
from shimmy.worker.encoder import EncoderEngine
from shimmy.worker.loading import load
from tests.program import LIMIT_SECONDS, program
from tests.worker import tiny_models
from tests.worker.test_vectors import vectors

pytestmark = pytest.mark.model
CLS, SEP, FIRST_WORD = 2, 3, 5
HEADS, LAYERS = 4, 2
Array = np.ndarray[Any, Any]
Tensors = dict[str, Array]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EncoderEngine, Tensors]]:
    path: Path = tmp_path_factory.mktemp("rank") / "rank.gguf"
    tensors = tiny_models.reranker(path)
    engine = load([str(path)], EngineOptions(), lambda fraction: None)
    assert isinstance(engine, EncoderEngine)
    yield engine, tensors


def text(*words: int) -> str:
    return " ".join(f"w{word}" for word in words)


def expected_score(tensors: Tensors, query: tuple[int, ...], document: tuple[int, ...]) -> float:
    """BERT (arXiv 1810.04805) with the head of a classifier, in numpy."""
    words = [[FIRST_WORD + word for word in part] for part in (query, document)]
    tokens = [CLS, *words[0], SEP, *words[1], SEP]

    def linear(name: str, x: Array) -> Array:
        return np.asarray(x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"])

    def norm(name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return np.asarray(scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"])

    def gelu(x: Array) -> Array:
        return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))

    x = tensors["token_embd.weight"][tokens] + tensors["position_embd.weight"][: len(tokens)]
    x = norm("token_embd_norm", x + tensors["token_types.weight"][0])
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        parts = (linear(f"{block}.attn_{part}", x) for part in "qkv")
        q, k, v = (part.reshape(len(tokens), HEADS, -1).transpose(1, 0, 2) for part in parts)
        weights = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]))
        attended = (weights / weights.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(tokens), -1)
        x = norm(f"{block}.attn_output_norm", x + linear(f"{block}.attn_output", attended))
        x = norm(f"{block}.layer_output_norm", x + linear(f"{block}.ffn_down", gelu(linear(f"{block}.ffn_up", x))))
    return float(linear("cls.output", np.tanh(linear("cls", x[0])))[0])


QUERY = (1, 2, 3)
DOCUMENTS = [(4, 5), (1, 2, 3), (9,), tuple(range(20)), (50, 60, 70, 80), (99, 98), (3, 2, 1)]


def test_scores_are_those_of_a_plain_computation(model: tuple[EncoderEngine, Tensors]) -> None:
    engine, tensors = model
    found = vectors(engine, [text(*document) for document in DOCUMENTS], query=text(*QUERY))
    expected = [expected_score(tensors, QUERY, document) for document in DOCUMENTS]
    assert [len(score) for score in found] == [1] * len(DOCUMENTS)
    assert [score for [score] in found] == pytest.approx(expected, abs=5e-3)
    assert max(expected) - min(expected) > 0.1
    order = sorted(range(len(DOCUMENTS)), key=lambda index: -found[index][0])
    assert order == sorted(range(len(DOCUMENTS)), key=lambda index: -expected[index])


def test_one_by_one_they_are_the_same(model: tuple[EncoderEngine, Tensors]) -> None:
    engine, _ = model
    documents = [text(*document) for document in DOCUMENTS]
    together = vectors(engine, documents, query=text(*QUERY))
    alone = [vectors(engine, [document], query=text(*QUERY))[0] for document in documents]
    assert [score for [score] in together] == pytest.approx([score for [score] in alone], abs=2e-3)


def test_a_text_cannot_spell_the_marks_between_texts(model: tuple[EncoderEngine, Tensors]) -> None:
    engine, _ = model
    request = Embedding(id="a", model="m", inputs=["w1 [SEP] w2"], query="w3 [SEP]")
    [tokens] = engine.inputs().prepare(request).inputs
    assert tokens.count(SEP) == 2


def test_it_makes_no_vectors_unless_told_how(model: tuple[EncoderEngine, Tensors]) -> None:
    engine, _ = model
    with pytest.raises(Unsupported, match="it ranks: ask /v1/rerank"):
        vectors(engine, ["w1"])
    assert len(vectors(engine, ["w1"], pooling="cls")[0]) == 64


@pytest.mark.program
def test_the_whole_program_ranks(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    tensors = tiny_models.reranker(tmp_path / "models" / "rank.gguf")
    expected = [expected_score(tensors, QUERY, document) for document in DOCUMENTS]
    with program(tmp_path) as running:

        def ask(path: str, **fields: Any) -> dict[str, Any]:
            body = json.dumps({"model": "rank", **fields}).encode()
            try:
                with urllib.request.urlopen(running.url + path, body, timeout=LIMIT_SECONDS) as answer:
                    found: dict[str, Any] = json.load(answer)
            except urllib.error.HTTPError as error:
                found = json.load(error)
            return found

        documents = [text(*document) for document in DOCUMENTS]
        results = ask("/v1/rerank", query=text(*QUERY), documents=documents, top_n=3)["results"]
        best = sorted(range(len(DOCUMENTS)), key=lambda index: -expected[index])[:3]
        assert [each["index"] for each in results] == best
        found = [each["relevance_score"] for each in results]
        assert found == pytest.approx([expected[index] for index in best], abs=5e-3)
        assert ask("/v1/embeddings", input="w1")["error"]["param"] == "model"
        assert ask("/v1/rerank", query="w1", documents=["w1", "w2 " * 100])["error"]["param"] == "documents[1]"
