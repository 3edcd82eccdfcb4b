"""Exceptions, and suggestions for misspelt names.

`BenchError` is for what a user can fix: the command line prints it as one line, without a traceback, and exits with
code 2 (1 for `CellsFailedError`). `assert` is for what only a bug in this program can break.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """An error that the user can fix: what is wrong and where (`message`), and what to do about it (`hint`)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt `name`: the most similar known name, if any, and the list of all."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'? Known: {', '.join(names)}"
    return f"Known: {', '.join(names)}"


class CellsFailedError(BenchError):
    """The command went through and everything is recorded, but something that it ran failed: exit code 1."""


class InvalidLogitsError(RuntimeError):
    """A model returned NaN or infinite logits: the cell is recorded as invalid and the run continues."""


class StopRequestedError(Exception):
    """The run was asked to stop, for example before a time limit. All results are saved; the same command resumes.

    code: what the command exits with; 75 (EX_TEMPFAIL of sysexits.h: unfinished, try again) has a job queued again.
    """

    def __init__(self, code: int = 75) -> None:
        super().__init__("stopped after a repetition; the same command resumes")
        self.code = code
