"""`shimmy pull`: a model from Hugging Face, or from a registry that speaks Ollama's protocol, into the store."""

import os
import time
from typing import TYPE_CHECKING

import click

from shimmy.cli.output import decimal_bytes
from shimmy.cli.pull_bar import PullBar

if TYPE_CHECKING:
    from shimmy.core.pulling import Progress
    from shimmy.store.manifests import Manifest

_HELP = """Bring a model into the store, where every command finds it.

NAME is org/repo or org/repo:QUANT of Hugging Face, or model:tag of Ollama's library, with a host before it where it is
of neither. What an interrupted pull brought is kept, and the next one goes on from there.
"""


@click.command("pull", help=_HELP)
@click.argument("name", metavar="NAME")
@click.option("--revision", metavar="REVISION", help="A branch, tag or commit of a repository of Hugging Face.")
@click.option("--json", "as_json", is_flag=True, help="Print what happens as JSON, one object on each line.")
def command(name: str, revision: str | None, as_json: bool) -> None:
    from shimmy.cli.interrupt import run
    from shimmy.core.errors import ShimmyError
    from shimmy.core.pulling import FAILED, Progress

    began = time.monotonic()
    try:
        manifest = run(_pull(name, revision, as_json))
    except ShimmyError as error:
        if as_json:
            _print(Progress(FAILED, error=error.fault()))
        raise
    if not as_json:
        took = time.monotonic() - began
        click.echo(f"ok: {manifest.name} is in the store, {decimal_bytes(manifest.size)} in {took:.1f} s")
    _warn_of(manifest)


async def _pull(name: str, revision: str | None, as_json: bool) -> "Manifest":
    from contextlib import aclosing
    from functools import partial

    from shimmy.core.pulling import Progress
    from shimmy.models.keeping import user_store
    from shimmy.store.background import progress
    from shimmy.store.pull import Pull

    bar = PullBar()
    make = partial(Pull.from_environ, user_store(os.environ), os.environ)
    try:
        async with aclosing(progress(make, name, revision)) as reported:
            async for each in reported:
                if not isinstance(each, Progress):
                    return each
                if as_json:
                    _print(each)
                else:
                    bar(each)
    finally:
        bar.clear()
    raise AssertionError("a pull ends with a manifest or an error")


def _warn_of(manifest: "Manifest") -> None:
    """Not everything that is a GGUF file can be served."""
    from shimmy.models.facts import inspect
    from shimmy.models.keeping import user_store
    from shimmy.models.names import printable

    store = user_store(os.environ)
    if reason := inspect([store.blob(part.sha256 or "") for part in manifest.parts]).invalid:
        click.echo(f"shimmy: WARNING: it cannot be served: {printable(reason)}", err=True)


def _print(progress: "Progress") -> None:
    import msgspec

    click.echo(msgspec.json.encode(progress))
