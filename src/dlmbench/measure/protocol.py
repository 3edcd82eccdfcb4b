"""The measurement protocol: how often a cell is repeated, in which order, and what one repetition records.

The number of repetitions is fixed once, from a pilot. Stopping as soon as the interval looks narrow enough would stop
on lucky samples and make intervals too narrow. What remains to be done is computed from the recorded samples alone, so
resuming an interrupted run needs no code of its own.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dlmbench.measure.clock import Clock
from dlmbench.measure.nvml import GpuMeter
from dlmbench.types import Generation, OnStep, ProtocolSettings, Sample, TracedPass

Z_95 = 1.96
# Large-sample standard error of the median of normal data: sqrt(pi / 2) * sd / sqrt(n).
MEDIAN_TO_MEAN_ERROR = 1.2533


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
class RepetitionPlan:
    """What to run for one cell in one round: warm-ups, then timed repetitions, each with its first index."""

    warmups: int
    repetitions: int
    first_warmup_index: int
    first_index: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to do in this round."""
        return self.warmups == 0 and self.repetitions == 0


def _target(timed: Sequence[Sample], settings: ProtocolSettings, round_index: int) -> int:
    """Timed repetitions that a cell should have after `round_index`, so far."""
    if len(timed) < settings.pilot:
        return settings.pilot
    n = further_repetitions([s.latency_s for s in timed[: settings.pilot]], settings)
    if settings.rounds == 1:
        return settings.pilot + n
    # Round 0 is the pilot. Cumulative shares: an interrupted round is completed and nothing is done twice.
    return settings.pilot + math.ceil(n * round_index / (settings.rounds - 1))


def plan_repetitions(
    samples: Sequence[Sample], settings: ProtocolSettings, round_index: int, fresh_process: bool
) -> RepetitionPlan:
    """What to run for one cell in round `round_index`, given all its recorded samples.

    Round 0 is the pilot: the first `pilot` timed samples fix the number of further repetitions, which are spread evenly
    over the later rounds. With a single round, call again once the pilot is recorded. Warm-ups: the full number the
    first time and in a fresh process, one in a later round of the same process (other cells ran in between), none on a
    second call within a round.

    Args:
        samples: of this cell only, in any order.
        settings: the experiment's protocol.
        round_index: 0 to rounds - 1.
        fresh_process: whether this process has not yet run this cell.
    """
    assert 0 <= round_index < settings.rounds, (round_index, settings.rounds)
    assert len({s.cell_id for s in samples}) <= 1, "samples of several cells"
    timed = sorted((s for s in samples if not s.is_warmup), key=lambda s: s.index)
    first_warmup_index = 1 + max((s.index for s in samples if s.is_warmup), default=-1)
    first_index = 1 + max((s.index for s in timed), default=-1)
    repetitions = max(0, _target(timed, settings, round_index) - len(timed))
    if repetitions == 0:
        warmups = 0
    elif fresh_process or not timed:
        warmups = settings.warmup
    elif timed[-1].round == round_index:
        warmups = 0
    else:
        warmups = min(1, settings.warmup)
    return RepetitionPlan(warmups, repetitions, first_warmup_index, first_index)


def timed_repetition(
    generate: Callable[[], Generation],
    clock: Clock,
    *,
    cell_id: str,
    index: int,
    is_warmup: bool,
    round_index: int,
    meter: GpuMeter,
    useful_tokens: Callable[[Generation], int | None],
    output_bytes: Callable[[Generation], int | None],
) -> tuple[Sample, Generation]:
    """Run `generate` once, from the prompt on the device to the last token on the device, without hooks.

    Synchronizes once before and once after; useful tokens and bytes are counted outside the timed region. energy_j is
    None for regions shorter than `nvml.MIN_REGION_S`.
    """
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    clock.synchronize()
    started_j = meter.counter_j()
    wall_start = clock.wall()
    start = clock.mark()
    generation = generate()
    end = clock.mark()
    clock.synchronize()
    wall_s = clock.wall() - wall_start
    gpu = meter.stop(started_j, wall_s)
    sample = Sample(
        cell_id=cell_id,
        index=index,
        is_warmup=is_warmup,
        round=round_index,
        process_id=os.getpid(),
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
        process_id=os.getpid(),
        first_token_s=prefill_s,
        prefill_s=prefill_s,
        inter_token_s=(total_s - prefill_s) / (new_tokens - 1) if prefill_s is not None and new_tokens > 1 else None,
        inter_token_p50_s=_quantile(gaps_s, 0.5) if is_autoregressive else None,
        inter_token_p95_s=_quantile(gaps_s, 0.95) if is_autoregressive else None,
        first_block_s=first_block_s,
        step_p50_s=None if is_autoregressive else _quantile(gaps_s, 0.5),
    )
