"""The measurement protocol: how often a cell is repeated, in which order, and what one repetition records.

The number of repetitions is fixed once, from a pilot. Stopping as soon as the interval looks narrow enough would stop
on lucky samples and make intervals too narrow. What remains to be done is computed from the recorded samples alone, so
resuming an interrupted run needs no code of its own.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dlmbench.measure.clock import Clock
from dlmbench.measure.host import HostLoad
from dlmbench.measure.nvml import GpuMeter
from dlmbench.types import Generation, OnStep, ProtocolSettings, Sample, TracedPass

Z_95 = 1.96
# Large-sample standard error of the median of normal data: sqrt(pi / 2) * sd / sqrt(n).
MEDIAN_TO_MEAN_ERROR = 1.2533
# A process with fewer timed repetitions than this says nothing about how processes differ.
MIN_PER_PROCESS = 3


def further_repetitions(pilot_s: Sequence[float], settings: ProtocolSettings) -> int:
    """How many repetitions follow the pilot of latencies `pilot_s` (seconds).

    n = (1.96 * 1.2533 * cv / half_width)^2 repetitions give the median a 95% interval of +-half_width; cv is the
    pilot's standard deviation over its mean. n is clipped to [min_repeats, max_repeats], then to what fits into
    `max_time_s` together with the pilot, at the pilot's median. The time limit wins over min_repeats, down to 0; such
    a cell shows a wide interval.
    """
    wanted = float(settings.min_repeats)
    if len(pilot_s) >= 2 and statistics.fmean(pilot_s) > 0:
        cv = statistics.stdev(pilot_s) / statistics.fmean(pilot_s)
        wanted = math.ceil((Z_95 * MEDIAN_TO_MEAN_ERROR * cv / settings.half_width) ** 2)
    n = int(min(max(wanted, settings.min_repeats), settings.max_repeats))
    median_s = statistics.median(pilot_s) if pilot_s else 0.0
    if median_s > 0:
        n = min(n, math.floor((settings.max_time_s - math.fsum(pilot_s)) / median_s))
    return max(n, 0)


@dataclass(frozen=True)
class ProcessShare:
    """Timed repetitions of one process: those of the pilot, and all; `total` is None until the pilot is recorded."""

    pilot: int
    total: int | None

    def after(self, round_index: int, rounds: int) -> int:
        """How many the process should have after `round_index`, so far.

        Round 0 is the pilot where there is one and several rounds. A visit with fewer than `MIN_PER_PROCESS` is not
        worth its warm-up: the last rounds are left out. Cumulative shares: rounding loses nothing.
        """
        if self.total is None:
            return self.pilot
        first = self.pilot if rounds > 1 else 0
        number, rounds = (round_index, rounds - 1) if first else (round_index + 1, rounds)
        visits = max(1, min(rounds, (self.total - first) // MIN_PER_PROCESS))
        return first + math.ceil((self.total - first) * min(number, visits) / visits)


def process_share(
    before: int, complete: int, pilot_s: Sequence[float], settings: ProtocolSettings, processes: int
) -> ProcessShare:
    """The share of one process of a cell, after `complete` others have made `before` timed repetitions.

    What is left is dealt evenly over the processes still missing, with at least `MIN_PER_PROCESS` in each: the time
    limit does not go below that, unless the pilot alone has used it up; such a cell is measured in one process only.

    pilot_s: latencies of the pilot's repetitions recorded so far, in seconds. processes: how many processes measure the
    cell here: `settings.processes`, or the part of them that a shard has.
    """
    is_single = settings.processes == 1
    least = 0 if is_single else MIN_PER_PROCESS
    pilot = max(least, settings.pilot - before) if before < settings.pilot else 0
    if len(pilot_s) < settings.pilot:
        return ProcessShare(pilot, None)
    total = settings.pilot + further_repetitions(pilot_s, settings)
    if is_single:
        return ProcessShare(pilot, total - before)
    missing = processes - complete
    is_too_slow = bool(before) and math.fsum(pilot_s) >= settings.max_time_s
    if missing <= 0 or is_too_slow:
        return ProcessShare(pilot, pilot)
    left = math.ceil(total * processes / settings.processes) - before
    return ProcessShare(pilot, max(pilot, least, math.ceil(left / missing)))


@dataclass(frozen=True)
class RepetitionPlan:
    """What to run for one cell in one visit: warm-ups, then timed repetitions, each with its first index."""

    warmups: int
    repetitions: int
    first_warmup_index: int
    first_index: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to do in this round."""
        return self.warmups == 0 and self.repetitions == 0


def plan_repetitions(
    samples: Sequence[Sample],
    settings: ProtocolSettings,
    round_index: int,
    process_id: int | None,
    processes: int | None = None,
) -> RepetitionPlan:
    """What to run for one cell in round `round_index` of a process, given all recorded samples of the cell.

    The first `pilot` timed samples fix the number of repetitions, which are dealt evenly over the processes, and within
    a process over its rounds. With a single round, call again once the pilot is recorded. A process that ended before
    it had `MIN_PER_PROCESS` timed repetitions stays in the records but does not count, and another one is measured in
    its place; where one process is wanted there is nothing to tell apart, and everything counts. Warm-ups: the full
    number in a fresh process, one in a later round (other cells ran in between), none on a second call in a round.

    process_id: of the process that will run it; None for one that does not exist yet. processes: how many processes
    measure the cell here; None for `settings.processes`.
    """
    assert 0 <= round_index < settings.rounds, (round_index, settings.rounds)
    assert len({s.cell_id for s in samples}) <= 1, "samples of several cells"
    processes = settings.processes if processes is None else processes
    own = [s for s in samples if s.process_id == process_id]
    timed = sorted((s for s in samples if not s.is_warmup), key=lambda s: s.index)
    others = Counter(s.process_id for s in timed if s.process_id != process_id)
    least = 1 if settings.processes == 1 else MIN_PER_PROCESS
    complete = [i for i, n in others.items() if n >= least]
    pilot_s = [s.latency_s for s in timed if s.process_id in (process_id, *complete)][: settings.pilot]
    before = sum(others[i] for i in complete)
    share = process_share(before, len(complete), pilot_s, settings, processes)
    done = sum(not s.is_warmup for s in own)
    repetitions = max(0, share.after(round_index, settings.rounds) - done)
    if repetitions == 0:
        warmups = 0
    elif not own:
        warmups = settings.warmup
    elif own[-1].round == round_index:
        warmups = 0
    else:
        warmups = min(1, settings.warmup)
    first_warmup_index = 1 + max((s.index for s in samples if s.is_warmup), default=-1)
    return RepetitionPlan(warmups, repetitions, first_warmup_index, 1 + max((s.index for s in timed), default=-1))


def timed_repetition(
    generate: Callable[[], Generation],
    clock: Clock,
    *,
    cell_id: str,
    index: int,
    is_warmup: bool,
    round_index: int,
    process_id: int,
    loaded_since_s: float,
    meter: GpuMeter,
    host: HostLoad,
    useful_tokens: Callable[[Generation], int | None],
    output_bytes: Callable[[Generation], int | None],
) -> tuple[Sample, Generation]:
    """Run `generate` once, from the prompt on the device to the last token on the device, without hooks.

    Synchronizes once before and once after; useful tokens and bytes are counted outside the timed region.
    loaded_since_s: when, by `clock.wall`, the device began to be busy with this cell.
    """
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    clock.synchronize()
    wall_start = clock.wall()
    start = clock.mark()
    generation = generate()
    end = clock.mark()
    clock.synchronize()
    wall_s = clock.wall() - wall_start
    gpu = meter.read()
    sample = Sample(
        cell_id=cell_id,
        index=index,
        is_warmup=is_warmup,
        round=round_index,
        process_id=process_id,
        started_at=started_at,
        clock=clock.name,
        latency_s=clock.seconds(start, end),
        wall_s=wall_s,
        new_tokens=generation.new_tokens,
        useful_tokens=useful_tokens(generation),
        output_bytes=output_bytes(generation),
        forwards=generation.forwards,
        positions=generation.positions,
        attention_pairs=generation.attention_pairs,
        wasted_positions=generation.wasted_positions,
        load_s=wall_start - loaded_since_s,
        host_busy=host.busy_share(),
        **vars(gpu),
    )
    return sample, generation


def _quantile(values: Sequence[float], q: float) -> float | None:
    """The q-quantile with linear interpolation between order statistics; None without values."""
    import numpy as np

    return float(np.quantile(values, q)) if values else None


def traced_pass(
    generate: Callable[[OnStep], Generation],
    clock: Clock,
    *,
    cell_id: str,
    process_id: int,
    is_autoregressive: bool,
) -> TracedPass:
    """Times within one generation: a mark after each forward, one synchronize at the end.

    Autoregressive: the first mark is time to first token (prefill included); inter_token_s = (L_e2e - L_prefill) /
    (N_out - 1), with p50 and p95 of the single gaps. Diffusion: first_block_s is the time until the first block is
    final, from the sampler's `Trace.block_ends`; inter-token times do not exist and stay None.
    """
    marks: list[tuple[int, object]] = []

    def on_step(forwards: int) -> None:
        marks.append((forwards, clock.mark()))

    clock.synchronize()
    start = clock.mark()
    generation = generate(on_step)
    end = clock.mark()
    clock.synchronize()

    total_s = clock.seconds(start, end)
    at_s = [clock.seconds(start, mark) for _, mark in marks]
    gaps_s = [after - before for before, after in itertools.pairwise(at_s)]
    prefill_s = at_s[0] if is_autoregressive and at_s else None
    new_tokens = max((len(row) for row in generation.tokens_BG), default=0)
    block_ends = generation.trace.block_ends if generation.trace is not None else ()
    first_block_s = None
    if not is_autoregressive and block_ends:
        done = (s for (forwards, _), s in zip(marks, at_s, strict=True) if forwards >= block_ends[0])
        first_block_s = next(done, None)
    return TracedPass(
        cell_id=cell_id,
        process_id=process_id,
        first_token_s=prefill_s,
        prefill_s=prefill_s,
        inter_token_s=(total_s - prefill_s) / (new_tokens - 1) if prefill_s is not None and new_tokens > 1 else None,
        inter_token_p50_s=_quantile(gaps_s, 0.5) if is_autoregressive else None,
        inter_token_p95_s=_quantile(gaps_s, 0.95) if is_autoregressive else None,
        first_block_s=first_block_s,
        step_p50_s=None if is_autoregressive else _quantile(gaps_s, 0.5),
        traced_s=total_s,
    )
