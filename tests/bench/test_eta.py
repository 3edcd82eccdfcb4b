"""How long a run still takes: counted against the protocol itself, and the rule by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from dlmbench.bench.forecast import Expectation, remaining, repetitions_left
from dlmbench.measure.protocol import plan_repetitions
from dlmbench.types import Cell, CellResult, EnergyWindow, MemoryPass, ProtocolSettings, Sample
from support.synthetic_run import baseline_cell, sample, target_cell

SETTINGS = ProtocolSettings(warmup=3, pilot=5, min_repeats=10, max_repeats=100, max_time_s=300, rounds=2, processes=1)


def made(cell: Cell, settings: ProtocolSettings, latency_s: float) -> list[tuple[list[Sample], int]]:
    """Every state of the records on the way through the protocol, and how many repetitions are still to come then."""
    done: list[Sample] = []
    states = [list(done)]
    for process, number in itertools.product(range(settings.processes), range(settings.rounds)):
        while not (visit := plan_repetitions(done, settings, number, process)).is_empty:
            for i in range(visit.warmups):
                warm = sample(cell, visit.first_warmup_index + i, latency_s, process, number)
                done.append(replace(warm, is_warmup=True))
                states.append(list(done))
            for i in range(visit.repetitions):
                done.append(sample(cell, visit.first_index + i, latency_s, process, number))
                states.append(list(done))
    return [(state, len(done) - len(state)) for state in states]


@pytest.mark.parametrize("rounds", [1, 2, 4])
@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("latency_s", [0.1, 40.0, 100.0])
def test_what_is_left_is_what_the_protocol_still_does(rounds, processes, latency_s):
    settings = replace(SETTINGS, rounds=rounds, processes=processes)
    states = made(baseline_cell(), settings, latency_s)
    assert len(states) > 8
    for state, left in states:
        found = repetitions_left(state, latency_s, settings)
        # Between the warm-ups and the first repetition of a later visit, those warm-ups are not yet known to be over.
        between = bool(state) and state[-1].is_warmup and any(not s.is_warmup for s in state)
        assert left <= found <= left + (settings.warmup if between else 0), (len(state), found, left)
    assert repetitions_left(states[-1][0], latency_s, settings) == 0


def result(cell: Cell, latencies: list[float], status: str | None = None, passes: bool = False) -> CellResult:
    samples = tuple(sample(cell, i, s) for i, s in enumerate(latencies))
    memory = MemoryPass(cell.id, 1, "rss") if passes else None
    return CellResult(cell, status, "", samples, None, memory, "e")  # type: ignore[arg-type]


def steps_times_batch(cell: Cell) -> float:
    return float(cell.steps or cell.new_tokens) * cell.batch_size


SECONDS = Expectation(lambda cell: 0.01 * steps_times_batch(cell), is_seconds=True)
WORK = Expectation(lambda cell: 1e12 * steps_times_batch(cell), is_seconds=False)
# 3 warm-ups, 5 pilots, 10 more with a warm-up before, and two passes.
UNTOUCHED = 3 + 5 + 10 + 1 + 2


def test_before_anything_is_timed_predicted_seconds_stand_and_work_says_nothing():
    cells = [result(c, []) for c in (baseline_cell(), target_cell(16))]
    left = remaining(cells, set(), SETTINGS, SECONDS, {}, 16)
    assert left.seconds == pytest.approx(UNTOUCHED * (0.64 + 0.16))
    assert left.unknown == 0
    left = remaining(cells, set(), SETTINGS, WORK, {}, 16)
    assert (left.seconds, left.unknown) == (0.0, 2)


@pytest.mark.parametrize("expectation", [SECONDS, WORK])
def test_what_was_timed_corrects_the_rest_of_its_kind_and_no_other(expectation):
    """Two cells took 0.3 and 0.5 s where 16 and 24 units were expected: 0.02 s a unit, so 32 units take 0.64 s."""
    over = [result(target_cell(16), [0.3] * 15, "ok"), result(target_cell(24), [0.5] * 15, "ok")]
    ended = {r.cell.id for r in over}
    left = remaining([*over, result(target_cell(32), [])], ended, SETTINGS, expectation, {}, 16)
    assert left.seconds == pytest.approx(UNTOUCHED * 0.64)
    other = remaining([*over, result(baseline_cell(), [])], ended, SETTINGS, expectation, {}, 16)
    assert (other.seconds, other.unknown) == (
        (pytest.approx(UNTOUCHED * 0.64), 0) if expectation.is_seconds else (0.0, 1)
    )


def test_a_cell_under_way_is_judged_by_itself_and_its_passes_count():
    begun = result(target_cell(16), [0.5] * 5, passes=True)
    left = remaining([begun], set(), SETTINGS, SECONDS, {}, 16)
    # The pilot is steady: 10 more and a warm-up before them; of the passes, memory is on record.
    assert left.seconds == pytest.approx(0.5 * (10 + 1 + 1))


def test_energy_windows_count_once_one_is_on_record():
    settings = replace(SETTINGS, processes=3)
    begun, other = result(target_cell(16), [0.5] * 5), result(target_cell(32), [])
    plain = remaining([begun, other], set(), settings, SECONDS, {}, 16).seconds
    windows = (EnergyWindow(begun.cell.id, 7, 6, 3.1, 900.0, 31),)
    metered = remaining([replace(begun, energy=windows), other], set(), settings, SECONDS, {}, 16).seconds
    assert metered - plain == pytest.approx((2 + 3) * 3.0)


def test_noisy_pilots_ask_for_more_of_cells_to_come():
    noisy = result(target_cell(16), [0.3, 0.5, 0.3, 0.5, 0.3])  # a spread that asks for max_repeats
    both = remaining([noisy, result(target_cell(32), [])], set(), SETTINGS, SECONDS, {}, 16)
    alone = remaining([noisy], set(), SETTINGS, SECONDS, {}, 16)
    assert alone.seconds == pytest.approx(0.3 * (100 + 1 + 2))
    assert both.seconds - alone.seconds == pytest.approx(0.6 * (3 + 5 + 100 + 1 + 2))


def test_texts_that_repetitions_do_not_make_come_on_top():
    """18 repetitions and warm-ups make 18 of 34 texts; the other 16 are one batch of 16, sixteen times the work."""
    cell = target_cell(16)
    few = remaining([result(cell, [])], set(), SETTINGS, SECONDS, {cell.id: 19}, 16)
    many = remaining([result(cell, [])], set(), SETTINGS, SECONDS, {cell.id: 35}, 16)
    assert few.seconds == pytest.approx(UNTOUCHED * 0.16)
    assert many.seconds - few.seconds == pytest.approx(16 * 0.16)


def test_what_has_no_weight_is_known_once_it_is_timed():
    open_ = Expectation(lambda cell: None, is_seconds=True)
    cell = target_cell(16)
    assert remaining([result(cell, [])], set(), SETTINGS, open_, {}, 16).unknown == 1
    left = remaining([result(cell, [0.2] * 5)], set(), SETTINGS, open_, {}, 16)
    assert (left.unknown, left.seconds) == (0, pytest.approx(0.2 * (10 + 1 + 2)))
