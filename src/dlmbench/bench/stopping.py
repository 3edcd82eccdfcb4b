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
from types import FrameType, TracebackType

from dlmbench.errors import BenchError, StopRequestedError
from dlmbench.measure.protocol import MIN_PER_PROCESS
from dlmbench.results import GENERATIONS, RECORDS, TEXT_SCORES
from dlmbench.results.journal import read_lines
from dlmbench.types import Cell, Progress


class Stopping:
    """Passes progress on to `inner`; raises `StopRequestedError` at the first safe point after SIGUSR1."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self._asked = False

    def __enter__(self) -> Stopping:
        self._before = signal.signal(signal.SIGUSR1, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        signal.signal(signal.SIGUSR1, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def _stop_if_asked(self) -> None:
        if self._asked:
            raise StopRequestedError

    def cell(self, cell: Cell, doing: str) -> None:
        """Work on a cell begins."""
        self._stop_if_asked()
        self._inner.cell(cell, doing)

    def repetition(self, cell: Cell, latency_s: float) -> None:
        """A repetition is recorded."""
        self._inner.repetition(cell, latency_s)
        self._stop_if_asked()

    def left(self, seconds: float | None, unknown_cells: int) -> None:
        """How long the speed pass should still take."""
        self._inner.left(seconds, unknown_cells)

    def failed(self, cell: Cell, reason: str) -> None:
        """A cell could not be measured or scored."""
        self._inner.failed(cell, reason)


@contextmanager
def resumable(folder: Path, processes: int = 1) -> Iterator[None]:
    """A run into `folder` that may be asked to stop. processes: of its protocol.

    Raises:
        StopRequestedError: it was stopped after some progress: the same command resumes it.
        BenchError: it was stopped before any progress; a second time would be no different.
    """
    before = _work_done(folder, processes)
    try:
        yield
    except StopRequestedError:
        if _work_done(folder, processes) > before:
            raise
        failure = BenchError(
            f"stopped before one repetition was recorded in {folder}"
            if processes == 1
            else f"stopped before one process had {MIN_PER_PROCESS} repetitions of a cell in {folder}",
            "Give the job more time: each start loads the models and warms up again",
        )
    else:
        return
    raise failure


def _work_done(folder: Path, processes: int) -> int:
    """Number of records that a resumed run does not measure again: all but warm-ups and unfinished processes."""
    if not folder.is_dir():  # a new run, or a mistake that opening the run reports
        return 0
    lines = [v for name in (RECORDS, GENERATIONS, TEXT_SCORES) for _, v in read_lines(folder / name) if "cell_id" in v]
    timed = Counter((v["cell_id"], v["process_id"]) for v in lines if v.get("is_warmup") is False)
    others = sum("is_warmup" not in v for v in lines)
    return others + sum(n for n in timed.values() if processes == 1 or n >= MIN_PER_PROCESS)
