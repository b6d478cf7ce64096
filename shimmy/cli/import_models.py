"""`shimmy import`: models of other programs, and files anywhere, as models of the store, without copying them."""

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from shimmy.models.keeping import Program

_HELP = """Take models into the store that stay where they are.

FILE is a GGUF file, or one of several shards. With --from it is all models of that program instead: they get the names
that pull would give them.
"""

_PROGRAMS = click.Choice(["ollama", "huggingface", "lmstudio"])


@click.command("import", help=_HELP)
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(exists=True, dir_okay=False))
@click.option("--name", metavar="NAME", help="What the model in FILE is to be called.")
@click.option("--from", "program", type=_PROGRAMS, help="Whose models.")
def command(file: str | None, name: str | None, program: "Program | None") -> None:
    from shimmy.core.settings import Settings
    from shimmy.models.discovery import sources_from
    from shimmy.models.keeping import take_in_all, take_in_file, user_store

    if (file is None) == (program is None):
        raise click.UsageError("Either FILE or --from.")
    if program and name:
        raise click.UsageError("--name is for one FILE.")
    store = user_store(os.environ)
    if file is not None:
        click.echo(f"ok: {take_in_file(store, file, name).name}")
    elif program is not None:
        num_taken = 0
        for manifest in take_in_all(store, sources_from(Settings(), os.environ), program):
            click.echo(f"ok: {manifest.name}")
            num_taken += 1
        click.echo(f"{num_taken} model{'' if num_taken == 1 else 's'} taken in", err=True)
