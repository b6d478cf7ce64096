"""`shimmy bench`: how fast one model is on this machine, measured through the engine that the server has."""

import time
from typing import TYPE_CHECKING, Any

import click

from shimmy.cli.options import engine_options, model_sources
from shimmy.cli.output import print_json, print_table

if TYPE_CHECKING:
    from shimmy.core.request import Tokens
    from shimmy.core.settings import Settings
    from shimmy.server.inference import Inference

_HEADINGS = ("", "MEDIAN", "LEAST", "MOST")
# What is measured of each run, its unit, and with how many digits it is shown.
_FIGURES = (
    ("first_token_seconds", "first token", "s", 3),
    ("prefill_tokens_per_second", "prompt", "tokens/s", 1),
    ("decode_tokens_per_second", "answer", "tokens/s", 1),
)


@click.command("bench", help="Measure how long the model NAME takes to load and to its first token, and its speed.")
@click.argument("name")
@click.option("--runs", type=click.IntRange(1, 1000), default=3, help="How often; 3 unless you say otherwise.")
@click.option("--prompt-tokens", type=click.IntRange(1, 1 << 20), default=256, help="Length of the prompt, 256.")
@click.option("--max-tokens", type=click.IntRange(2, 1 << 20), default=64, help="Length of the answer, 64.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures, as JSON.")
@model_sources
@engine_options
def command(name: str, runs: int, prompt_tokens: int, max_tokens: int, as_json: bool, **flags: Any) -> None:
    from shimmy.cli.interrupt import run
    from shimmy.core.settings import Settings

    measured = run(_measure(Settings(**flags, lora_model=name), name, runs, prompt_tokens, max_tokens))
    if as_json:
        print_json(measured)
        return
    counted = "1 run" if runs == 1 else f"{runs} runs"
    click.echo(f"{measured['id']}, loaded in {measured['load_seconds']:.2f} s, {counted} of {_sizes(measured)}:")
    print_table([_HEADINGS, *(_row(measured["runs"], *figure) for figure in _FIGURES)])


async def _measure(
    settings: "Settings", name: str, num_runs: int, prompt_tokens: int, max_tokens: int
) -> dict[str, Any]:
    from shimmy.cli.engine import engine
    from shimmy.core.request import Tokens

    async with engine(settings) as inference:
        began_at = time.monotonic()
        await inference.models.preload(name)
        load_seconds = time.monotonic() - began_at
        [status] = inference.models.statuses()
        assert status.loaded is not None
        results = []
        for number in range(num_runs + 1):
            # No two begin alike, so that nothing of them is cached.
            prompt = Tokens([(number * 31 + place) % status.loaded.vocabulary_size for place in range(prompt_tokens)])
            results.append(await _run(inference, name, f"bench-{number}", prompt, max_tokens))
        # The first run pays for what is done once, and is not counted.
        return {"id": status.id, "load_seconds": load_seconds, "runs": results[1:]}


async def _run(inference: "Inference", name: str, id: str, prompt: "Tokens", max_tokens: int) -> dict[str, Any]:
    """The figures of one answer."""
    from contextlib import aclosing

    from shimmy.core.errors import ModelFailed
    from shimmy.core.events import Finished, TextDelta
    from shimmy.core.request import Generation, Sampling

    generation = Generation(
        id=id,
        model=name,
        prompt=prompt,
        sampling=Sampling.of(temperature=0.0, ignore_eos=True),
        max_tokens=max_tokens,
    )
    began_at = time.monotonic()
    first_at: float | None = None
    finished: Finished | None = None
    async with aclosing(inference.generate(generation)) as batches:
        async for batch in batches:
            for event in batch:
                if isinstance(event, TextDelta) and first_at is None:
                    first_at = time.monotonic()
                elif isinstance(event, Finished):
                    finished = event
    if first_at is None or finished is None:
        raise ModelFailed("the model gave no answer")
    usage, timings = finished.usage, finished.timings
    computed = usage.prompt_tokens - usage.cached_tokens
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "first_token_seconds": first_at - began_at,
        "prefill_tokens_per_second": _speed(computed, timings.prefill_seconds),
        # The first token comes of the prompt.
        "decode_tokens_per_second": _speed(usage.completion_tokens - 1, timings.decode_seconds),
    }


def _speed(num_tokens: int, seconds: float) -> float:
    return num_tokens / seconds if seconds > 0 else 0.0


def _sizes(measured: dict[str, Any]) -> str:
    run = measured["runs"][0]
    return f"{run['prompt_tokens']} + {run['completion_tokens']} tokens"


def _median(values: list[float]) -> float:
    """As `statistics` has it, which is a large module."""
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _row(runs: list[dict[str, Any]], key: str, label: str, unit: str, digits: int) -> tuple[str, ...]:
    values = [run[key] for run in runs]
    return (label, *(f"{each(values):.{digits}f} {unit}" for each in (_median, min, max)))
