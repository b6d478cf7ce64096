"""The official OpenAI SDK against the real program and the real demo model."""

import asyncio
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI

from tests.program import DEMO_ID, Program

pytestmark = [pytest.mark.model, pytest.mark.program]

TOKYO: list[Any] = [{"role": "user", "content": "What is the capital of Japan?"}]


def test_models_are_listed_with_their_template_source(client: OpenAI) -> None:
    (model,) = client.models.list()
    assert model.id == DEMO_ID
    assert model.model_extra is not None and model.model_extra["template_source"] == "gguf"
    assert client.models.retrieve(DEMO_ID).id == DEMO_ID


def test_a_chat_is_answered_with_real_counts(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=DEMO_ID, messages=TOKYO, temperature=0, max_tokens=30)
    assert answer.choices[0].message.content == "The capital of Japan is Tokyo."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == DEMO_ID
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (37, 7)


def test_a_stream_has_the_same_text_and_ends_properly(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=DEMO_ID,
            messages=TOKYO,
            temperature=0,
            max_completion_tokens=30,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "The capital of Japan is Tokyo."
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 44


def test_a_model_that_generates_makes_vectors_too(client: OpenAI) -> None:
    answer = client.embeddings.create(model=DEMO_ID, input=["A dog barks.", "A hound barks.", "Taxes rise."])
    assert [entry.index for entry in answer.data] == [0, 1, 2]
    assert {len(entry.embedding) for entry in answer.data} == {576}
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 15
    floats = client.embeddings.create(model=DEMO_ID, input="A dog barks.", encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(answer.data[0].embedding, abs=0.02)
    with pytest.raises(BadRequestError) as caught:
        client.embeddings.create(model=DEMO_ID, input=["fine", "word " * 3000])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input[1]")
    assert "3000 tokens" in caught.value.message or "3001 tokens" in caught.value.message


def test_a_prompt_that_is_asked_again_was_cached(client: OpenAI) -> None:
    fields: Any = {"model": DEMO_ID, "temperature": 0, "max_tokens": 3}
    fields["messages"] = [{"role": "user", "content": "What is the capital of France?"}]
    first = client.chat.completions.create(**fields)
    again = client.chat.completions.create(**fields)
    *_, last = client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True})
    for usage, num_cached in ((first.usage, range(36)), (again.usage, [36]), (last.usage, [36])):
        assert usage is not None and usage.prompt_tokens == 37 and usage.prompt_tokens_details is not None
        assert usage.prompt_tokens_details.cached_tokens in num_cached
    assert first.choices[0].message.content == again.choices[0].message.content


def test_a_cut_answer_says_length(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=DEMO_ID, messages=TOKYO, temperature=0, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 3


def test_choices_seed_and_stop(client: OpenAI) -> None:
    fields: Any = {"model": DEMO_ID, "messages": TOKYO, "n": 3, "seed": 5, "temperature": 1.5, "max_tokens": 12}
    # Before these, one that may find less in the cache, on which the last bit of a logit depends.
    _, first, second = (client.chat.completions.create(**fields, stop=["."]) for _ in range(3))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(texts) == 3 and not any("." in (text or "") for text in texts)
    assert texts[0] == second.choices[0].message.content


def test_completions_take_text_tokens_and_several_prompts(client: OpenAI) -> None:
    answer = client.completions.create(model=DEMO_ID, prompt=["One, two,", "A, B,"], max_tokens=4, temperature=0)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert "three" in answer.choices[0].text and "C" in answer.choices[1].text
    by_tokens = client.completions.create(model=DEMO_ID, prompt=[504, 7, 1270], max_tokens=2)
    assert by_tokens.usage is not None and by_tokens.usage.prompt_tokens == 3


def test_a_streamed_completion(client: OpenAI) -> None:
    chunks = client.completions.create(model=DEMO_ID, prompt="One, two,", max_tokens=4, temperature=0, stream=True)
    assert "three" in "".join(chunk.choices[0].text for chunk in chunks)


def test_log_probabilities_of_a_chat_whole_and_streamed(client: OpenAI) -> None:
    fields: Any = {"model": DEMO_ID, "messages": TOKYO, "temperature": 0, "max_tokens": 8}
    fields |= {"logprobs": True, "top_logprobs": 3}
    (choice,) = client.chat.completions.create(**fields).choices
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    for token in choice.logprobs.content:
        assert [each.token for each in token.top_logprobs][0] == token.token and len(token.top_logprobs) == 3
        assert bytes(token.bytes or []).decode() == token.token and -5 < token.logprob <= 0
    streamed = [chunk.choices[0].logprobs for chunk in client.chat.completions.create(**fields, stream=True)]
    again = [token for each in streamed if each for token in each.content or []]
    assert [token.token for token in again] == [token.token for token in choice.logprobs.content]


def test_log_probabilities_of_a_completion_whole_and_streamed(client: OpenAI) -> None:
    fields: Any = {"model": DEMO_ID, "prompt": "One, two,", "temperature": 0, "max_tokens": 5, "logprobs": 2}
    (choice,) = client.completions.create(**fields).choices
    logprobs = choice.logprobs
    assert logprobs is not None and logprobs.tokens and logprobs.top_logprobs and logprobs.text_offset
    assert "".join(logprobs.tokens) == choice.text
    for token, offset, logprob, top in zip(
        logprobs.tokens, logprobs.text_offset, logprobs.token_logprobs or [], logprobs.top_logprobs, strict=True
    ):
        assert choice.text[offset:].startswith(token)
        assert top[token] == logprob == max(top.values()) and len(top) == 2
    streamed = [chunk.choices[0].logprobs for chunk in client.completions.create(**fields, stream=True)]
    assert [offset for each in streamed if each for offset in each.text_offset or []] == logprobs.text_offset


def test_the_best_of_several_and_the_prompt_before_it(client: OpenAI) -> None:
    fields: Any = {"model": DEMO_ID, "prompt": "One, two,", "temperature": 1.5, "max_tokens": 4, "seed": 1}
    best = client.completions.create(**fields, best_of=4, n=1, logprobs=0).choices
    every = client.completions.create(**fields, n=4, logprobs=0).choices
    means = {choice.text: sum(choice.logprobs.token_logprobs) / 4 for choice in every if choice.logprobs}
    assert [choice.text for choice in best] == [max(means, key=lambda text: means[text])]
    echoed = client.completions.create(**fields, echo=True).choices[0].text
    assert echoed.startswith("One, two,") and len(echoed) > len("One, two,")


@pytest.mark.parametrize(("max_tokens", "end"), [(1, -1), (0, None)])
def test_answers_are_scored_as_evaluation_harnesses_do_it(client: OpenAI, max_tokens: int, end: int | None) -> None:
    """lm-evaluation-harness, local-completions: of what comes back all that is behind the context, less what was
    generated."""
    fields: Any = {"model": DEMO_ID, "temperature": 0, "logprobs": 1, "seed": 1234, "echo": True}

    def score(answer: str) -> tuple[float, bool]:
        counted = client.completions.create(**fields, prompt=context, max_tokens=0).usage
        scored = client.completions.create(**fields, prompt=context + answer, max_tokens=max_tokens)
        (choice,) = scored.choices
        assert counted and scored.usage and choice.logprobs
        assert choice.logprobs.token_logprobs and choice.logprobs.top_logprobs
        told, tops = choice.logprobs.token_logprobs[:end], choice.logprobs.top_logprobs[:end]
        assert len(told) == len(tops) == scored.usage.prompt_tokens and told[0] is None and tops[0] is None
        own = slice(counted.prompt_tokens, None)
        return sum(told[own]), told[own] == [max(top.values()) for top in tops[own]]

    context = "The capital of France is"
    (likely, is_greedy), (unlikely, is_greedy_too) = score(" Paris"), score(" the banana")
    assert likely > unlikely + 5 and is_greedy and not is_greedy_too


def test_fields_of_other_servers_arrive(client: OpenAI) -> None:
    def ask(**extra: Any) -> str:
        answer = client.chat.completions.create(model=DEMO_ID, messages=TOKYO, max_tokens=12, seed=1, extra_body=extra)
        return answer.choices[0].message.content or ""

    assert ask(temperature=2.0, top_n_sigma=0.01, top_k=0) == ask(temperature=0)
    assert "Tokyo" in ask(temperature=0) and "Tokyo" not in ask(temperature=0, bad_words=["Tokyo"])
    assert ask(temperature=0, xtc_probability=1.0) == ask(temperature=0) != ask(xtc_probability=1.0, xtc_threshold=0.01)


def test_a_prompt_over_the_context_is_refused_with_both_counts(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(model=DEMO_ID, messages=[{"role": "user", "content": "word " * 4000}])
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"
    assert "2048" in str(caught.value) and "40" in str(caught.value)


def test_an_unknown_model_is_not_found_and_the_known_ones_are_named(client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match=DEMO_ID) as caught:
        client.chat.completions.create(model="no/such:model", messages=TOKYO)
    assert caught.value.code == "model_not_found"


def test_many_streams_at_once_each_get_their_own_answer(server: Program) -> None:
    capitals = {"Japan": "Tokyo", "Germany": "Berlin", "Egypt": "Cairo", "England": "London", "China": "Beijing"}

    async def ask(client: AsyncOpenAI, country: str) -> str:
        messages: Any = [{"role": "user", "content": f"What is the capital of {country}?"}]
        stream = await client.chat.completions.create(
            model=DEMO_ID, messages=messages, temperature=0, max_tokens=20, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def ask_all() -> list[str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, country) for country in capitals))

    for answer, capital in zip(asyncio.run(ask_all()), capitals.values(), strict=True):
        assert capital in answer


def test_a_wrong_field_is_named(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(model=DEMO_ID, messages=TOKYO, temperature=-1)
    assert caught.value.param == "temperature"
