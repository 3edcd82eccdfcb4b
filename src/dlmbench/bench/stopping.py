"""Graceful stop: after a signal the current repetition is finished and recorded, then the run ends.

SLURM sends USR1 some time before it kills a job. The records are kept, and the job asks to be queued again. That only
makes sense if it made progress: a time limit too short for one repetition would be requeued forever. TERM and Ctrl-C
end the run in the same way; a Ctrl-C after any of them does so at once. The first signal decides the exit code: a TERM
after USR1 comes from the time limit, and the job is still to be queued again.
"""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dlmbench.errors import BenchError, StopRequestedError
from dlmbench.measure.protocol import MIN_PER_PROCESS
from dlmbench.results import GENERATIONS, RECORDS, TEXT_SCORES
from dlmbench.results.journal import read_lines
from dlmbench.types import Cell, Progress

EXIT_CODES = {signal.SIGUSR1: 75, signal.SIGTERM: 143, signal.SIGINT: 130}


class _Stopping:
    """Passes progress on to `inner`; raises `StopRequestedError` at the first safe point after a signal."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self.left, self.failed = inner.left, inner.failed
        self.asked: signal.Signals | None = None

    def handle(self, number: int, _frame: object) -> None:
        """Called for each signal; a Ctrl-C that is not the first signal ends the run at once."""
        if number == signal.SIGINT and self.asked is not None:
            raise KeyboardInterrupt
        self.asked = self.asked or signal.Signals(number)
        again = " again" if number == signal.SIGINT else ""
        with suppress(OSError, RuntimeError):  # no terminal any more, or the signal came in the middle of writing to it
            sys.stderr.write(f"\nstopping after this repetition; Ctrl-C{again} stops at once\n")

    def cell(self, cell: Cell, doing: str) -> None:
        self._stop_if_asked()
        self._inner.cell(cell, doing)

    def repetition(self, cell: Cell, latency_s: float) -> None:
        self._inner.repetition(cell, latency_s)
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.asked is not None:
            raise StopRequestedError(EXIT_CODES[self.asked])


@contextmanager
def stoppable(inner: Progress, folder: Path, processes: int = 1) -> Iterator[Progress]:
    """Progress for a run into `folder`, which the signals of `EXIT_CODES` stop. processes: of its protocol.

    Raises:
        StopRequestedError: it was stopped: the same command resumes it.
        BenchError: USR1 stopped it before any progress; a second time would be no different.
    """
    stopping, done = _Stopping(inner), _work_done(folder, processes)
    handlers = {number: signal.signal(number, stopping.handle) for number in EXIT_CODES}
    try:
        yield stopping
    except StopRequestedError:
        if stopping.asked != signal.SIGUSR1 or _work_done(folder, processes) > done:
            raise
        least = "one repetition was recorded"
        if processes > 1:
            least = f"one process had {MIN_PER_PROCESS} repetitions of a cell"
        raise BenchError(
            f"stopped before {least} in {folder}",
            "Give the job more time: each start loads the models and warms up again",
        ) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _work_done(folder: Path, processes: int) -> int:
    """Number of records that a resumed run does not measure again: not warm-ups, unfinished processes, failures."""
    if not folder.is_dir():  # a new run, or a mistake that opening the run reports
        return 0
    records, texts, scores = ([v for _, v in read_lines(folder / n)] for n in (RECORDS, GENERATIONS, TEXT_SCORES))
    timed = Counter((v["cell_id"], v["process_id"]) for v in records if v.get("is_warmup") is False)
    work = sum(n for n in timed.values() if processes == 1 or n >= MIN_PER_PROCESS)
    work += sum(1 for v in records if "cell_id" in v and "is_warmup" not in v and v.get("status", "ok") == "ok")
    # Repetitions of unfinished processes have texts too; a cell is profiled once it has all its repetitions.
    profiled = {v.get("cell_id") for v in records if v.get("kind") == "memory"}
    work += sum(1 for v in texts if v.get("cell_id") in profiled)
    work += sum(1 for v in scores if v.get("prompt_index", 0) is not None)  # None: no text of the cell was scored
    return work
