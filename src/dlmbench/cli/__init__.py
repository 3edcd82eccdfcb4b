"""The command line: one file for each group of commands, and the only place that prints or exits.

Options are accepted with `-` and `_` alike; those with several values take a comma-separated list or may be repeated.
An error that the user can fix is one line on stderr and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

# isort: off
# Imported for the commands they add, in the order in which `--help` lists them.
from dlmbench.cli import run, report, compare, plan, generate, tasks, slurm, machine  # noqa: F401

# isort: on
from dlmbench.cli.options import app, respelled
from dlmbench.errors import BenchError, StopRequestedError

# EX_TEMPFAIL of sysexits.h: unfinished, try again. The job scripts requeue a job on this code only.
_RETRY = 75
# typer may bundle its own copy of click, so click's error class is taken from one that typer exports.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Exit code 0; 2 after an error line; 130 after Ctrl-C; 75 after USR1, to be run again."""
    dashed = [respelled(a, "_", "-") for a in (sys.argv[1:] if arguments is None else arguments)]
    try:
        app(dashed, prog_name="dlmbench", standalone_mode=False)
    except BenchError as error:
        _fail(error.message, error.hint)
    except _USAGE_ERROR as error:
        _fail(str(getattr(error, "format_message", error.__str__)()), "See `dlmbench COMMAND --help`")
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except StopRequestedError:
        sys.stderr.write("\nstopped by a signal after a repetition; the same command resumes\n")
        sys.exit(_RETRY)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\ninterrupted\n")
        sys.exit(130)


def _fail(message: str, hint: str) -> None:
    text = f"{message.rstrip('. ')}. {hint}" if hint else message
    sys.stderr.write(f"dlmbench: {' '.join(text.split())}\n")
    sys.exit(2)
