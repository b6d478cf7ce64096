"""`shimmy ps`: the models that a running server has loaded."""

import time
from calendar import timegm
from typing import Any

import click

from shimmy.cli.output import decimal_bytes, print_json, print_table
from shimmy.cli.remote import ask, remote

_HEADINGS = ("NAME", "SIZE", "GPU", "CONTEXT", "WORKERS", "UNTIL")
# What is farther away means "for ever".
_YEAR_SECONDS = 365 * 86_400


@click.command("ps", help="List the models that a running server has loaded.")
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
@remote
def command(as_json: bool, url: str | None, api_key: str | None) -> None:
    models = ask("GET", "/api/ps", url, api_key)["models"]
    if as_json:
        print_json(models)
    else:
        print_table([_HEADINGS, *map(_row, models)])


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    left = timegm(time.strptime(model["expires_at"], "%Y-%m-%dT%H:%M:%SZ")) - time.time()
    return (
        model["name"].removesuffix(":latest"),
        decimal_bytes(model["size"]),
        _on_gpus(model),
        str(model["context_length"]),
        str(model["workers"]),
        "its memory is needed" if left > _YEAR_SECONDS else _in(left),
    )


def _on_gpus(model: dict[str, Any]) -> str:
    if model["size_vram"]:
        return decimal_bytes(model["size_vram"])
    return "failed" if "gpu_failure" in model else "-"


def _in(seconds: float) -> str:
    if seconds < 90:
        return f"in {max(0, round(seconds))} s"
    if seconds < 5400:
        return f"in {round(seconds / 60)} min"
    return f"in {round(seconds / 3600)} h"
