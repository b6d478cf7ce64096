"""`shimmy cp`: a further name for a model. No byte of the model is copied."""

import os

import click


@click.command("cp", help="Give the model SOURCE the further name TARGET. The model itself is not copied.")
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
def command(source: str, target: str) -> None:
    from shimmy.cli.list import scanned
    from shimmy.models.keeping import copy, user_store

    copied = copy(user_store(os.environ), scanned(None, ()), source, target)
    click.echo(f"ok: {source} is also called {copied.name}")
