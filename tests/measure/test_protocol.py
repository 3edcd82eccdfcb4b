from dataclasses import replace
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmbench.measure.nvml import GpuMeter
from dlmbench.measure.protocol import (
    RepetitionPlan,
    further_repetitions,
    plan_repetitions,
    timed_repetition,
    traced_pass,
)
from dlmbench.types import Generation, ProtocolSettings, Sample, Trace
from support.fake_clock import FakeClock

DEFAULT = ProtocolSettings()


def a_sample(index, *, is_warmup=False, round_index=0, latency_s=1.0):
    return Sample(
        cell_id="c", index=index, is_warmup=is_warmup, round=round_index, process_id=1, started_at="", clock="fake",
        latency_s=latency_s, wall_s=latency_s, new_tokens=8, useful_tokens=None, output_bytes=None, forwards=4,
        positions=1, attention_pairs=1, wasted_positions=0,
    )  # fmt: skip


class TestFurtherRepetitions:
    def test_to_the_digit(self):
        # mean 1, sd 0.02 * sqrt(2 / 4): cv^2 = 2e-4; (1.96 * 1.2533)^2 * 2e-4 / 1e-4 = 12.069 -> 13
        assert further_repetitions([0.98, 1.0, 1.0, 1.0, 1.02], DEFAULT) == 13

    def test_clipped_on_both_sides(self):
        assert further_repetitions([1.0] * 5, DEFAULT) == 10
        assert further_repetitions([0.5, 1.0, 1.0, 1.0, 1.5], DEFAULT) == 100

    def test_time_wins_over_the_minimum_and_the_pilot_counts(self):
        # 300 s - 5 * 40 s leaves time for two more, though ten are wanted.
        assert further_repetitions([40.0] * 5, DEFAULT) == 2
        assert further_repetitions([70.0] * 5, DEFAULT) == 0

    def test_a_pilot_of_one_knows_no_spread(self):
        assert further_repetitions([1.0], DEFAULT) == 10
        assert further_repetitions([0.0, 0.0], DEFAULT) == 10


class TestPlanRepetitions:
    def test_a_run_of_three_rounds(self):
        s, record = replace(DEFAULT, rounds=3, min_repeats=11), []
        visits = [carry_out(plan_repetitions(record, s, r, fresh_process=r == 0), record, r) for r in range(3)]
        assert visits == [RepetitionPlan(3, 5, 0, 0), RepetitionPlan(1, 6, 3, 5), RepetitionPlan(1, 5, 4, 11)]

    def test_one_round_asks_again_after_the_pilot_and_does_not_warm_up_twice(self):
        s, record = replace(DEFAULT, rounds=1), []
        assert carry_out(plan_repetitions(record, s, 0, True), record, 0) == RepetitionPlan(3, 5, 0, 0)
        assert carry_out(plan_repetitions(record, s, 0, False), record, 0) == RepetitionPlan(0, 10, 3, 5)
        assert plan_repetitions(record, s, 0, False).is_empty

    def test_the_number_is_fixed_by_the_pilot_whatever_comes_later(self):
        wild = [a_sample(i, latency_s=1.0 if i < 5 else 1.0 + i) for i in range(9)]
        assert plan_repetitions(wild, replace(DEFAULT, rounds=1), 0, True).repetitions == 5 + 10 - 9

    def test_the_first_visit_of_a_live_process_warms_up_fully(self):
        assert plan_repetitions([], DEFAULT, 0, fresh_process=False).warmups == 3

    def test_a_fresh_process_warms_up_fully_again_and_counts_on(self):
        record = [a_sample(0, is_warmup=True), *(a_sample(i) for i in range(7))]
        assert plan_repetitions(record, DEFAULT, 1, fresh_process=True) == RepetitionPlan(3, 8, 1, 7)
        assert plan_repetitions(record[:4], DEFAULT, 0, fresh_process=True) == RepetitionPlan(3, 2, 1, 3)

    def test_no_warmups_asked_for_means_none(self):
        s = replace(DEFAULT, warmup=0)
        assert plan_repetitions([a_sample(i) for i in range(5)], s, 1, fresh_process=False).warmups == 0

    @settings(max_examples=200, deadline=None)
    @given(
        rounds=st.integers(1, 4),
        pilot=st.integers(1, 6),
        min_repeats=st.integers(0, 15),
        kills=st.lists(st.integers(0, 12), max_size=4),
        latencies=st.lists(st.floats(0.9, 1.1), min_size=6, max_size=6),
    )
    def test_a_killed_run_ends_with_the_same_repetitions_as_an_undisturbed_one(
        self, rounds, pilot, min_repeats, kills, latencies
    ):
        s = ProtocolSettings(rounds=rounds, pilot=pilot, min_repeats=min_repeats, max_repeats=20)
        undisturbed, killed = [], []
        run(undisturbed, s, latencies)
        for after in kills:
            run(killed, s, latencies, stop_after=after)
        run(killed, s, latencies)
        timed = [x.index for x in killed if not x.is_warmup]
        assert timed == [x.index for x in undisturbed if not x.is_warmup] == list(range(len(timed)))
        assert len(timed) == pilot + further_repetitions([latencies[i % 6] for i in range(pilot)], s)
        warm = [x.index for x in killed if x.is_warmup]
        assert warm == list(range(len(warm)))
        assert all(plan_repetitions(killed, s, r, True).is_empty for r in range(rounds))


def carry_out(visit, record, round_index, latencies=(1.0,), limit=10**6):
    """Append what the visit asks for, up to `limit` repetitions in all."""
    jobs = [(visit.first_warmup_index + i, True) for i in range(visit.warmups)]
    jobs += [(visit.first_index + i, False) for i in range(visit.repetitions)]
    for index, is_warmup in jobs[:limit]:
        latency_s = latencies[index % len(latencies)]
        record.append(a_sample(index, is_warmup=is_warmup, round_index=round_index, latency_s=latency_s))
    return visit


def run(record, s, latencies, stop_after=10**6):
    end, seen = len(record) + stop_after, False
    for round_index in range(s.rounds):
        while not (visit := plan_repetitions(record, s, round_index, fresh_process=not seen)).is_empty:
            seen = True
            carry_out(visit, record, round_index, latencies, end - len(record))
            if len(record) >= end:
                return


class TestTimedRepetition:
    def test_to_the_digit_and_in_order(self):
        clock = FakeClock([10.0, 10.5, 12.0, 12.75])
        generation = Generation(((1, 2), (3, 4)), forwards=7, positions=70, attention_pairs=700, wasted_positions=5)

        def generate():
            clock.calls.append("generate")
            return generation

        sample, out = timed_repetition(
            generate, clock, cell_id="c", index=4, is_warmup=False, round_index=1, meter=GpuMeter(),
            useful_tokens=lambda g: g.new_tokens - 1, output_bytes=lambda g: None,
        )  # fmt: skip
        assert out is generation
        assert clock.calls == ["synchronize", "wall", "mark", "generate", "mark", "synchronize", "wall"]
        assert (sample.latency_s, sample.wall_s, sample.clock) == (1.5, 2.75, "fake")
        assert (sample.index, sample.round, sample.is_warmup) == (4, 1, False)
        assert (sample.new_tokens, sample.useful_tokens, sample.output_bytes) == (4, 3, None)
        assert (sample.forwards, sample.positions, sample.attention_pairs, sample.wasted_positions) == (7, 70, 700, 5)
        assert (sample.energy_j, sample.power_w, sample.other_processes) == (None, None, None)


class TestTracedPass:
    def test_autoregressive_to_the_digit(self):
        # Prefill 0.5 s, then gaps of 0.1, 0.2, 0.3 and 0.1 s to the end of the region.
        clock = FakeClock([0.0, 0.5, 0.6, 0.8, 1.1, 1.2])

        def generate(on_step):
            for forwards in range(1, 5):
                on_step(forwards)
            return Generation(((1, 2, 3, 4), (5, 6, 7, 8)), 4, 0, 0)

        traced = traced_pass(generate, clock, cell_id="c", is_autoregressive=True)
        assert clock.calls == ["synchronize", *["mark"] * 6, "synchronize"]
        assert (traced.first_token_s, traced.prefill_s) == (0.5, 0.5)
        assert traced.inter_token_s == pytest.approx(0.7 / 3, rel=1e-12)
        assert traced.inter_token_p50_s == pytest.approx(0.2, rel=1e-12)
        assert traced.inter_token_p95_s == pytest.approx(0.29, rel=1e-12)
        assert (traced.first_block_s, traced.step_p50_s) == (None, None)

    def test_a_single_token_has_no_time_between_tokens(self):
        def generate(on_step):
            on_step(1)
            return Generation(((1,),), 1, 0, 0)

        traced = traced_pass(generate, FakeClock([0, 1, 2]), cell_id="c", is_autoregressive=True)
        assert (traced.first_token_s, traced.inter_token_s, traced.inter_token_p50_s) == (1, None, None)

    def test_diffusion_shows_its_first_block_and_has_no_inter_token_time(self):
        marks = [1.0, 1.5, 2.5, 2.75]
        trace = Trace(((1, 2, 3, 4),), ((1.0,) * 4,), block_ends=(2, 4))

        def generate(on_step):
            for forwards in range(1, 5):
                on_step(forwards)
            return Generation(((1, 2, 3, 4),), 4, 0, 0, trace=trace)

        traced = traced_pass(generate, FakeClock([0.0, *marks, 3.0]), cell_id="c", is_autoregressive=False)
        assert traced.first_block_s == 1.5
        assert traced.step_p50_s == median([0.5, 1.0, 0.25])
        assert {traced.first_token_s, traced.prefill_s, traced.inter_token_s, traced.inter_token_p50_s} == {None}
