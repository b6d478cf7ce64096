"""`shimmy stop`: unload a model from a running server."""

from urllib.parse import quote

import click

from shimmy.cli.options import text
from shimmy.cli.remote import ask, remote


@click.command("stop", help="Unload the model NAME from a running server, unless it is in use.")
@click.argument("name", type=text)
@remote
def command(name: str, url: str | None, api_key: str | None) -> None:
    ask("POST", f"/api/models/{quote(name, safe='/')}/unload", url, api_key)
