"""The `ablate` command. Sub-commands are named by string and imported when called: help and lists are instant."""

from __future__ import annotations

import io
import os
import sys
from errno import EDQUOT, ENOSPC
from importlib import import_module

import click

from experiments import __version__
from experiments.errors import CellError, UserError
from lightning_modules.names import did_you_mean

COMMANDS = {
    "list": "experiments.commands.sweep:list_command",
    "plan": "experiments.commands.sweep:plan_command",
    "run": "experiments.commands.sweep:run_command",
    "status": "experiments.commands.sweep:status_command",
    "logs": "experiments.commands.sweep:logs_command",
    "cancel": "experiments.commands.sweep:cancel_command",
    "retry": "experiments.commands.sweep:retry_command",
    "report": "experiments.commands.report:report_command",
    "explain": "experiments.commands.report:explain_command",
    "reproduce": "experiments.commands.report:reproduce_command",
    "compare": "experiments.commands.report:compare_command",
    "board": "experiments.commands.report:board_command",
    "train": "experiments.commands.single:train_command",
    "keys": "experiments.commands.tools:keys_command",
    "sample": "experiments.commands.finished:sample_command",
    "evaluate": "experiments.commands.finished:evaluate_command",
    "import-checkpoint": "experiments.commands.checkpoint:import_command",
    "execute": "experiments.commands.single:execute_command",
    "tokenize": "experiments.commands.tokenize:tokenize_command",
    "reference": "experiments.commands.reference:reference_command",
    "bench": "experiments.commands.tools:bench_command",
    "doctor": "experiments.commands.tools:doctor_command",
}
"""Name -> "module:function". Kept in the order of a user's day."""

HELP = {
    "list": "Named sweeps: what each reproduces, how many cells, how far.",
    "plan": "Dry run: every cell, its parameters, what is done, what is left out and why.",
    "run": "Train and evaluate what a sweep still lacks, then write its report.",
    "status": "How far every cell of a sweep is, and why one failed.",
    "logs": "What a cell printed.",
    "cancel": "Stop a sweep's running cells.",
    "retry": "Run the failed cells of a sweep again.",
    "report": "Tables, figures, samples and index.html of a sweep.",
    "explain": "Everything behind one cell's numbers.",
    "reproduce": "Run a finished cell again elsewhere and compare.",
    "compare": "Two runs side by side.",
    "board": "TensorBoard on exactly a sweep's runs.",
    "train": "Train one run from a preset.",
    "keys": "Every key of a preset: its value, what it may be, what it means.",
    "sample": "Sample images from a run.",
    "evaluate": "Measure a run with other sampler or metric settings.",
    "import-checkpoint": "Published weights become a finished run, or a tokenizer's file.",
    "execute": "Worker: train and evaluate the given configuration files.",
    "tokenize": "Turn ImageNet, CC3M, COCO or any folder of images into a token store.",
    "reference": "Statistics of real images, once, that FID is measured against.",
    "bench": "Measure kernels, layers and samplers; ratios in one run.",
    "doctor": "What works on this machine, what does not, and what fixes it.",
}
HIDDEN = {"execute"}


class LazyGroup(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, context: click.Context) -> list[str]:
        """All names, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import and return a command."""
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        return getattr(import_module(module), attribute)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `ablate --help`, from `HELP`, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, text in HELP.items() if name not in HIDDEN])

    def resolve_command(self, context: click.Context, args: list[str]):
        """An unknown command is answered with the closest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise UserError(f"Unknown command '{args[0]}'.{did_you_mean(args[0], COMMANDS)} See ablate --help.")
        return super().resolve_command(context, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def cli() -> None:
    """Ablations of Mamba-based image generators: named sweeps, run anywhere, down to the paper's table."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit code 0: done; 1: a cell failed; 2: the request was wrong."""
    _open_streams()
    for stream in (sys.stdout, sys.stderr):  # a terminal that knows no arrows shows question marks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        words = [_checked(word) for word in (sys.argv[1:] if arguments is None else arguments)]
        code = cli.main(args=words, prog_name="ablate", standalone_mode=False)
    except (UserError, ValueError, FileNotFoundError) as error:
        click.echo(f"Error: {error}", err=True)
        code = 2
    except OSError as error:
        way_out = " Free some space; the same command goes on." if error.errno in (ENOSPC, EDQUOT) else ""
        click.echo(f"Error: {error.filename or 'file system'}: {error.strerror or error}.{way_out}", err=True)
        code = 2
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except CellError as error:
        click.echo(f"Failed: {error}", err=True)
        code = 1
    except (KeyboardInterrupt, click.Abort) as error:  # before RuntimeError, which click's is one of
        if isinstance(error.__cause__, EOFError):  # of a damaged file: click takes any for the end of what is typed
            raise error.__cause__ from None
        click.echo("Stopped. The same command goes on from here.", err=True)
        code = 130
    except (FloatingPointError, RuntimeError, MemoryError) as error:
        from experiments.failures import classify

        cause, reason = classify(error)
        if cause not in ("nan", "oom"):  # anything else is a defect, whose traceback helps
            raise
        click.echo(f"Failed: {reason}", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _checked(word: str) -> str:
    """A word as typed, with the ~ that shells leave as it is behind an equals sign: else a folder would get that name.

    Raises:
        UserError: it is no text.
    """
    try:
        word.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{ascii(word)} is not UTF-8; give the file another name, or set LC_ALL=C.UTF-8.") from error
    name, equals, value = word.partition("=")
    return f"{name}={os.path.expanduser(value)}" if value.startswith("~/") else word


def _open_streams() -> None:
    """Let a standard stream that is closed be an empty one: else its number would be the next file's that is opened,
    and what is printed below Python would end in that."""
    streams = ("stdin", "stdout", "stderr")
    while (number := os.open(os.devnull, os.O_RDWR)) < len(streams):
        setattr(sys, streams[number], open(number, "w" if number else "r", encoding="utf-8", closefd=False))
    os.close(number)


if __name__ == "__main__":
    main()
