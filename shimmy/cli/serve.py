"""`shimmy serve`: flags and environment in, `Settings` out; the server does the rest."""

import sys
from typing import Any

import click

from shimmy.cli.options import (
    FLAGLESS,
    access,
    bind,
    engine_options,
    kv_cache,
    megabytes,
    model_sources,
    residence,
    seconds,
)
from shimmy.cli.progress import LoadingBar

_HELP = """Answer requests until told to stop.

Each flag with a value can also be given as SHIMMY_ and its name (SHIMMY_BIND, SHIMMY_API_KEY ...); the folders as
SHIMMY_MODEL_PATHS, an adapter as SHIMMY_LORA_GGUF.
"""

_tokens = click.IntRange(32, 2**31 - 1)
_sequences = click.IntRange(1, 256)
_threads = click.IntRange(1, 512)
_file = click.Path(dir_okay=False)
_spec_type = click.Choice(["none", "ngram", "draft"])
_log_format = click.Choice(["text", "json"])


@click.command("serve", help=_HELP)
@click.option("--bind", type=bind, metavar="HOST:PORT|unix:PATH|auto", envvar="SHIMMY_BIND", help="Where to listen.")
@model_sources
@click.option("--ctx", type=_tokens, envvar="SHIMMY_CTX", help="Context of a model, in tokens.")
@click.option("--parallel", type=_sequences, envvar="SHIMMY_PARALLEL", help="Sequences of a model side by side.")
@click.option("--threads", type=_threads, envvar="SHIMMY_THREADS", help="Threads of a model at most.")
@click.option("--prefix-ram", type=megabytes, metavar="MB", envvar="SHIMMY_PREFIX_RAM", help="For computed prompts.")
@kv_cache
@engine_options
@click.option(
    "--model-draft", metavar="FILE|NAME", envvar="SHIMMY_MODEL_DRAFT", help="A small model that guesses ahead."
)
@click.option("--spec-type", type=_spec_type, envvar="SHIMMY_SPEC_TYPE", help="Who guesses tokens ahead.")
@click.option("--preload", multiple=True, metavar="NAME", envvar="SHIMMY_PRELOAD", help="Load this model at the start.")
@residence
@click.option("--ready-file", type=_file, envvar="SHIMMY_READY_FILE", help="JSON, written once requests are answered.")
@click.option("--log-format", type=_log_format, envvar="SHIMMY_LOG_FORMAT", help="How lines on stderr look.")
@access
@click.option("--allow-pull", is_flag=True, default=None, envvar="SHIMMY_ALLOW_PULL", help="Let requests pull models.")
@click.option("--queue-seconds", type=seconds, metavar="SECONDS", envvar="SHIMMY_QUEUE_SECONDS", help="For a turn.")
@click.option("--drain-seconds", type=seconds, metavar="SECONDS", envvar="SHIMMY_DRAIN_SECONDS", help="At the end.")
def command(**flags: Any) -> None:
    from shimmy.core.settings import Settings
    from shimmy.server.lifecycle import serve

    if flags["spec_type"] == "draft" and not flags["model_draft"]:
        raise click.UsageError("--spec-type draft needs --model-draft.")
    given = {_FIELDS.get(name, name): value for name, value in flags.items() if value not in (None, ())}
    given |= click.get_current_context().meta.get(FLAGLESS, {})
    sys.exit(serve(Settings(**given), on_progress=LoadingBar()))


# Where a flag and its field in `Settings` have different names.
_FIELDS = {
    "ctx": "context_length",
    "parallel": "num_sequences",
    "threads": "num_threads",
    "prefix_ram": "prefix_ram_bytes",
    "model_draft": "draft_model",
    "spec_type": "speculative",
}
