"""The command line: one file for each group of commands, and the only place that prints or exits.

Options are accepted with `-` and `_` alike; those with several values take a comma-separated list or may be repeated.
Exit codes are in docs/commands.md: 1 where cells failed, 2 after an error that the user can fix, which is one line on
stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

# isort: off
# Imported for the commands they add, in the order in which `--help` lists them.
from dlmbench.cli import init, run, report, compare, plan, generate, tasks, slurm, machine, selfcheck  # noqa: F401

# isort: on
from dlmbench.cli.options import app
from dlmbench.errors import BenchError, CellsFailedError, StopRequestedError

_INTERRUPTED = 130
_READER_GONE = 141  # as a shell reports a program that SIGPIPE ended
# typer may bundle its own copy of click, so click's error class is taken from one that typer exports.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; returns after success, otherwise exits with a code of docs/commands.md."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app(arguments or ["--help"], prog_name="dlmbench", standalone_mode=False)
        sys.stdout.flush()
    except CellsFailedError as error:
        _fail(error.message, error.hint, 1)
    except BenchError as error:
        _fail(error.message, error.hint)
    except _USAGE_ERROR as error:
        _fail(str(getattr(error, "format_message", error.__str__)()), "See `dlmbench COMMAND --help`")
    except UnicodeEncodeError as error:
        _fail(f"the output has characters that {error.encoding} cannot write", "Set PYTHONIOENCODING=utf-8")
    except (BrokenPipeError, SystemExit) as error:  # typer and rich make an exit with code 1 of a broken pipe
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # What is left in the buffer has no reader either; without this Python would complain on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
        sys.exit(_READER_GONE)
    except OSError as error:
        _fail(
            f"{error.filename or 'the output'}: {error.strerror or error}", "Check the path, its permissions and disk"
        )
    except StopRequestedError as stopped:
        sys.stderr.write(f"\n{stopped}\n")
        sys.exit(stopped.code)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    # typer returns the code of an exit, and makes one of Ctrl-C.
    if code == _INTERRUPTED:
        sys.stderr.write("\ninterrupted\n")
    if isinstance(code, int) and code:
        sys.exit(code)


def _fail(message: str, hint: str, code: int = 2) -> NoReturn:
    text = f"{message.rstrip('. ')}. {hint}" if hint else message
    sys.stderr.write(f"dlmbench: {' '.join(text.split())}\n")
    sys.exit(code)
