"""POST /v1/rerank over fake workers, who score a text by its length."""

from typing import Any

import pytest

from tests.server.live import Live, run_live

pytestmark = pytest.mark.program


def body(*documents: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "query": "what?", "documents": list(documents), **fields}


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank", "/v1/reranking", "/reranking"])
def test_the_best_come_first(path: str) -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", path, body("a", "a b c", {"text": "a b"}))
        assert answer.json() == {
            "object": "list",
            "model": "echo",
            "usage": {"prompt_tokens": 6, "total_tokens": 6},
            "results": [
                {"index": 1, "relevance_score": 5.0},
                {"index": 2, "relevance_score": 3.0},
                {"index": 0, "relevance_score": 1.0},
            ],
        }

    run_live(test)


def test_the_only_model_need_not_be_named() -> None:
    async def test(server: Live) -> None:
        named = await server.ask("POST", "/rerank", body("a", "a b"))
        answer = await server.ask("POST", "/rerank", {"query": "what?", "documents": ["a", "a b"]})
        assert (answer.status, answer.json()) == (200, named.json())

    run_live(test)


def test_the_best_with_their_texts() -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", "/v1/rerank", body("aa", "b", "cc", top_n=2, return_documents=True))
        assert answer.json()["results"] == [
            {"index": 0, "relevance_score": 2.0, "document": {"text": "aa"}},
            {"index": 2, "relevance_score": 2.0, "document": {"text": "cc"}},
        ]

    run_live(test)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": None}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": ["a", 1]}, "documents[1]"),
        ({"documents": [{"title": "a"}]}, "documents[0].text"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"top_n": 0}, "top_n"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", "/v1/rerank", body("a") | fields)
        assert (answer.status, answer.error["param"]) == (400, param)

    run_live(test)
