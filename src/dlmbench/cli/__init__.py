"""The command line: one function a command, a file for each kind of work, and the only place that exits.

Options are accepted with `-` and `_` alike; those that take several values take them separated by commas or by
repeating the option. What a user can mend is one line on stderr and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

# isort: off
# Imported for the commands they add, in the order in which `--help` lists them.
from dlmbench.cli import run, report, compare, plan, generate, likelihood, tasks, slurm, machine  # noqa: F401

# isort: on
from dlmbench.cli.options import app
from dlmbench.errors import BenchError, StopRequestedError

# sysexits.h EX_TEMPFAIL: not done yet, try again. The job scripts queue a job again on this code alone.
_AGAIN = 75
# typer may carry a copy of click of its own, so its error class is taken from what it exports.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]


def _dashed(argument: str) -> str:
    """`--batch_size=4` as `--batch-size=4`: both spellings are in use."""
    if not argument.startswith("--"):
        return argument
    name, sign, value = argument.partition("=")
    return name.replace("_", "-") + sign + value


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exits with 0, with 2 after one line on stderr, with 130 after Ctrl-C, with 75 after USR1."""
    given = [_dashed(a) for a in (sys.argv[1:] if arguments is None else arguments)]
    try:
        app(given, prog_name="dlmbench", standalone_mode=False)
    except BenchError as error:
        _fail(error.message, error.hint)
    except _USAGE_ERROR as error:
        _fail(str(getattr(error, "format_message", error.__str__)()), "See `dlmbench COMMAND --help`")
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except StopRequestedError:
        sys.stderr.write("\nstopped after a repetition, as the signal asked; the same command resumes\n")
        sys.exit(_AGAIN)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\nstopped; the same command resumes\n")
        sys.exit(130)


def _fail(message: str, hint: str) -> None:
    text = f"{message.rstrip('. ')}. {hint}" if hint else message
    sys.stderr.write(f"dlmbench: {' '.join(text.split())}\n")
    sys.exit(2)
