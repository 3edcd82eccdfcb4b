"""Graceful stop: after SIGUSR1 the current repetition is finished and recorded, then the run ends.

SLURM sends USR1 some time before it kills a job. The records are kept, and the job asks to be queued again. That only
makes sense if it made progress: a time limit too short for one repetition would be requeued forever.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dlmbench.errors import BenchError, StopRequestedError
from dlmbench.measure.protocol import MIN_PER_PROCESS
from dlmbench.results import GENERATIONS, RECORDS, TEXT_SCORES
from dlmbench.results.journal import read_lines
from dlmbench.types import Cell, Progress


class _Stopping:
    """Passes progress on to `inner`; raises `StopRequestedError` at the first safe point after `asked` is set."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self.left, self.failed = inner.left, inner.failed
        self.asked = False

    def cell(self, cell: Cell, doing: str) -> None:
        self._stop_if_asked()
        self._inner.cell(cell, doing)

    def repetition(self, cell: Cell, latency_s: float) -> None:
        self._inner.repetition(cell, latency_s)
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.asked:
            raise StopRequestedError


@contextmanager
def stoppable(inner: Progress, folder: Path, processes: int = 1) -> Iterator[Progress]:
    """Progress for a run into `folder`, which SIGUSR1 stops. processes: of its protocol.

    Raises:
        StopRequestedError: it was stopped after some progress: the same command resumes it.
        BenchError: it was stopped before any progress; a second time would be no different.
    """
    stopping, done = _Stopping(inner), _work_done(folder, processes)
    handler = signal.signal(signal.SIGUSR1, lambda *_: setattr(stopping, "asked", True))
    try:
        yield stopping
    except StopRequestedError:
        if _work_done(folder, processes) > done:
            raise
        least = "one repetition was recorded"
        if processes > 1:
            least = f"one process had {MIN_PER_PROCESS} repetitions of a cell"
        raise BenchError(
            f"stopped before {least} in {folder}",
            "Give the job more time: each start loads the models and warms up again",
        ) from None
    finally:
        signal.signal(signal.SIGUSR1, handler)


def _work_done(folder: Path, processes: int) -> int:
    """Number of records that a resumed run does not measure again: all but warm-ups and unfinished processes."""
    if not folder.is_dir():  # a new run, or a mistake that opening the run reports
        return 0
    lines = [v for name in (RECORDS, GENERATIONS, TEXT_SCORES) for _, v in read_lines(folder / name) if "cell_id" in v]
    timed = Counter((v["cell_id"], v["process_id"]) for v in lines if v.get("is_warmup") is False)
    others = sum("is_warmup" not in v for v in lines)
    return others + sum(n for n in timed.values() if processes == 1 or n >= MIN_PER_PROCESS)
