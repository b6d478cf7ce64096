"""`shimmy generate`: one answer, written to stdout while it is made."""

import sys
from typing import TYPE_CHECKING, Any

import click

from shimmy.cli.options import checked, engine_options, kv_cache, model_sources, text

if TYPE_CHECKING:
    from shimmy.core.events import Finished
    from shimmy.core.request import Generation, Prompt
    from shimmy.core.settings import Settings


@click.command("generate", help="Let the model NAME answer a prompt.")
@click.argument("name")
@click.option("--prompt", type=text, metavar="TEXT", help="What to answer; read from stdin if not given.")
@click.option("--system", type=text, metavar="TEXT", help="A system message before it.")
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without the chat template.")
@click.option("--max-tokens", type=checked("MaxTokens"), metavar="NUMBER", help="Stop after so many tokens.")
@click.option("--temperature", type=checked("Temperature"), metavar="NUMBER", help="0 takes the likeliest token.")
@click.option("--top-p", type=checked("Probability"), metavar="NUMBER", help="Choose from this much probability.")
@click.option("--top-k", type=checked("TopK"), metavar="NUMBER", help="Choose from so many tokens; 0 from all.")
@click.option("--seed", type=checked("Seed"), metavar="NUMBER", help="The same seed gives the same answer.")
@kv_cache
@model_sources
@engine_options
def command(name: str, prompt: str | None, system: str | None, raw: bool, max_tokens: int | None, **rest: Any) -> None:
    from shimmy.cli.interrupt import run
    from shimmy.core.request import Generation, Sampling
    from shimmy.core.settings import Settings

    fields = ("model_path", "model_dirs", "kv_cache_bytes", "kv_cache_key", "engine")
    settings = Settings(**{field: rest.pop(field) for field in fields}, lora_model=name)
    sampling = Sampling.of(**rest)
    asked = _prompt(_given(prompt), system, raw)
    generation = Generation(id="cli", model=name, prompt=asked, sampling=sampling, max_tokens=max_tokens)
    finished = run(_generate(settings, generation))
    if sys.stderr.isatty():
        click.echo(_summary(finished), err=True)


def _given(prompt: str | None) -> str:
    if prompt is None:
        prompt = _piped()
    if not prompt:
        raise click.UsageError("The prompt is empty.")
    return prompt


def _piped() -> str:
    if sys.stdin.isatty():
        raise click.UsageError("Give --prompt, or pipe the prompt into stdin.")
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise click.UsageError("What was piped into stdin is not UTF-8.") from error


def _prompt(prompt: str, system: str | None, raw: bool) -> "Prompt":
    from shimmy.core.request import Chat, Message, Reasoning, Text

    if not raw:
        before = [Message("system", system)] if system is not None else []
        return Chat([*before, Message("user", prompt)], reasoning=Reasoning(is_raw=True))
    if system is not None:
        raise click.UsageError("--system needs the chat template, which --raw leaves out.")
    return Text(prompt)


async def _generate(settings: "Settings", generation: "Generation") -> "Finished":
    from contextlib import aclosing

    from shimmy.cli.engine import engine
    from shimmy.core.events import Finished, TextDelta

    async with engine(settings) as inference, aclosing(inference.generate(generation)) as batches:
        async for batch in batches:
            for event in batch:
                match event:
                    case TextDelta():
                        click.echo(event.text, nl=False)
                    case Finished():
                        finished = event
    click.echo()
    return finished


def _summary(finished: "Finished") -> str:
    usage, timings = finished.usage, finished.timings
    speed = usage.completion_tokens / timings.decode_seconds if timings.decode_seconds else 0.0
    ended = ", cut off at the limit" if finished.reason == "length" else ""
    return f"{usage.prompt_tokens} + {usage.completion_tokens} tokens, {speed:.1f} tokens/s{ended}"
