"""`shimmy rm`: models of the store, and what only they needed."""

import os

import click

from shimmy.cli.output import decimal_bytes


@click.command("rm", help="Remove models from the store. Files that were imported stay where they are.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def command(names: tuple[str, ...]) -> None:
    from shimmy.cli.list import scanned
    from shimmy.models.keeping import remove, user_store

    for name in names:
        freed = remove(user_store(os.environ), scanned(None, ()), name)
        click.echo(f"ok: removed {name}; {decimal_bytes(freed)} are free again")
