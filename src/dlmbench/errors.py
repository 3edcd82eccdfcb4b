"""The one exception a user can mend, and how a misspelt name is met.

`assert` is for what only we can break; `BenchError` is for what a user can. The command line prints it once,
without a traceback, and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """What went wrong and where (`message`), and what to do about it (`hint`)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt `name`: the nearest known one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'? Known: {', '.join(names)}"
    return f"Known: {', '.join(names)}"


class InvalidLogitsError(RuntimeError):
    """A model gave NaN or infinite logits: the cell is recorded as invalid and the run goes on."""


class StopRequestedError(Exception):
    """The run was asked to stop before a time limit; everything it did is on record and the same command resumes."""
