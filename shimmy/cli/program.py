"""The command line as a whole: which subcommands there are, and how their failures become messages and exit codes.

stdout is data, stderr is messages. A subcommand's module is imported when it is called, and what that module needs when
it runs: `shimmy list --help` imports neither the server nor msgspec.
"""

import os
import sys
from typing import Any

import click

from shimmy import __version__
from shimmy.core import exit_codes

COMMANDS = (
    *("serve", "list", "show", "discover", "probe", "generate", "quantize", "convert"),
    *("ps", "stop", "fit", "bench", "pull", "rm", "cp", "import", "gpu-info"),
)


class Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        # Spelled out, so that whatever packs the program finds the modules.
        match cmd_name:
            case "serve":
                from shimmy.cli.serve import command
            case "list":
                from shimmy.cli.list import command
            case "show":
                from shimmy.cli.show import command
            case "discover":
                from shimmy.cli.discover import command
            case "probe":
                from shimmy.cli.probe import command
            case "generate":
                from shimmy.cli.generate import command
            case "ps":
                from shimmy.cli.ps import command
            case "stop":
                from shimmy.cli.stop import command
            case "fit":
                from shimmy.cli.fit import command
            case "bench":
                from shimmy.cli.bench import command
            case "quantize":
                from shimmy.cli.quantize import command
            case "convert":
                from shimmy.cli.convert import command
            case "pull":
                from shimmy.cli.pull import command
            case "rm":
                from shimmy.cli.rm import command
            case "cp":
                from shimmy.cli.cp import command
            case "import":
                from shimmy.cli.import_models import command
            case "gpu-info":
                from shimmy.cli.gpu_info import command
            case _:
                return None
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            raise click.exceptions.Exit(exit_codes.INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has seen enough. What is still buffered must not fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(exit_codes.OK) from None
        except Exception as error:
            from shimmy.core.errors import ShimmyError
            from shimmy.models.names import printable

            if not isinstance(error, ShimmyError):
                raise
            click.echo(f"shimmy: {printable(error.message)}", err=True)
            raise click.exceptions.Exit(exit_codes.of_error(error)) from error


# `help=` here and in every subcommand: the executable has no docstrings, from which click would take it.
@click.command(cls=Commands, help="Serve the GGUF models on this machine over the OpenAI API.")
@click.version_option(__version__, prog_name="shimmy", message="%(prog)s %(version)s")
def program() -> None:
    pass
