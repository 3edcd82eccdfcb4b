from collections import Counter
from dataclasses import replace
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmbench.measure.host import HostLoad
from dlmbench.measure.nvml import GpuMeter
from dlmbench.measure.protocol import (
    MIN_PER_PROCESS,
    RepetitionPlan,
    further_repetitions,
    plan_repetitions,
    timed_repetition,
    traced_pass,
)
from dlmbench.types import Generation, ProtocolSettings, Sample, Trace
from support.fake_clock import FakeClock

DEFAULT = ProtocolSettings(processes=1)


def a_sample(index, *, is_warmup=False, round_index=0, latency_s=1.0, process_id=1):
    return Sample(
        cell_id="c", index=index, is_warmup=is_warmup, round=round_index, process_id=process_id, started_at="",
        clock="fake", latency_s=latency_s, wall_s=latency_s, new_tokens=8, useful_tokens=None, output_bytes=None,
        forwards=4, positions=1, attention_pairs=1, wasted_positions=0,
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
        visits = [carry_out(plan_repetitions(record, s, r, 1), record, r) for r in range(3)]
        assert visits == [RepetitionPlan(3, 5, 0, 0), RepetitionPlan(1, 6, 3, 5), RepetitionPlan(1, 5, 4, 11)]

    def test_one_round_asks_again_after_the_pilot_and_does_not_warm_up_twice(self):
        s, record = replace(DEFAULT, rounds=1), []
        assert carry_out(plan_repetitions(record, s, 0, 1), record, 0) == RepetitionPlan(3, 5, 0, 0)
        assert carry_out(plan_repetitions(record, s, 0, 1), record, 0) == RepetitionPlan(0, 10, 3, 5)
        assert plan_repetitions(record, s, 0, 1).is_empty

    def test_the_number_is_fixed_by_the_pilot_whatever_comes_later(self):
        wild = [a_sample(i, latency_s=1.0 if i < 5 else 1.0 + i) for i in range(9)]
        assert plan_repetitions(wild, replace(DEFAULT, rounds=1), 0, None).repetitions == 5 + 10 - 9

    def test_a_fresh_process_warms_up_fully_again_and_counts_on(self):
        record = [a_sample(0, is_warmup=True), *(a_sample(i) for i in range(7))]
        assert plan_repetitions(record, DEFAULT, 1, 2) == RepetitionPlan(3, 8, 1, 7)
        assert plan_repetitions(record[:4], DEFAULT, 0, 2) == RepetitionPlan(3, 2, 1, 3)

    def test_no_warmups_asked_for_means_none(self):
        s = replace(DEFAULT, warmup=0)
        assert plan_repetitions([a_sample(i) for i in range(5)], s, 1, 1).warmups == 0


class TestProcesses:
    """The number that the pilot fixes is dealt over fresh processes; none has fewer than three repetitions."""

    @pytest.mark.parametrize(
        ("changes", "latency_s", "shares"),
        [
            ({}, 1.0, [5, 5, 5]),
            ({"min_repeats": 12}, 1.0, [6, 6, 5]),
            ({"min_repeats": 0}, 1.0, [5, 3, 3]),
            ({"min_repeats": 0, "pilot": 2}, 1.0, [3, 3, 3]),
            ({"processes": 5}, 1.0, [5, 3, 3, 3, 3]),
            # 300 s are enough for 7 repetitions, but three a process are made; a pilot of 350 s leaves no time at all.
            ({}, 40.0, [5, 3, 3]),
            ({}, 70.0, [5, 0, 0]),
            ({"processes": 1}, 1.0, [15]),
        ],
    )
    @pytest.mark.parametrize("rounds", [1, 2, 3])
    def test_shares_and_full_warmups_in_each_process(self, changes, latency_s, shares, rounds):
        s, record = replace(ProtocolSettings(), rounds=rounds, **changes), []
        run(record, s, [latency_s])
        counts = [timed_of(record, process) for process in range(s.processes)]
        assert counts == shares
        for process in range(s.processes):
            own = [x for x in record if x.process_id == process]
            assert [x.is_warmup for x in own[:4]] == ([True] * 3 + [False] if own else [])
            # A warm-up before each later visit, and none twice within one.
            visits = len({x.round for x in own})
            assert sum(x.is_warmup for x in own) == (3 + visits - 1 if own else 0)
        assert is_complete(record, s)

    def test_the_first_process_is_the_pilot_and_rounds_spread_the_rest(self):
        s, record = ProtocolSettings(rounds=2, min_repeats=25), []
        run(record, s, [1.0])
        by_round = [[timed_of(record, p, r) for r in range(2)] for p in range(3)]
        assert by_round == [[5, 5], [5, 5], [5, 5]]

    @pytest.mark.parametrize(("min_repeats", "visits"), [(10, [5]), (13, [3, 3]), (25, [4, 3, 3])])
    def test_a_visit_of_less_than_three_is_not_worth_its_warm_up(self, min_repeats, visits):
        s, record = ProtocolSettings(rounds=4, min_repeats=min_repeats), []
        run(record, s, [1.0])
        of = [x for x in record if x.process_id == 1]
        assert [sum(x.round == r and not x.is_warmup for x in of) for r in range(len(visits))] == visits
        assert sum(x.is_warmup for x in of) == 3 + len(visits) - 1

    def test_a_process_that_ended_early_stays_on_record_and_another_one_is_measured(self):
        s, record = ProtocolSettings(rounds=1), []
        run(record, s, [1.0], stop_after=3 + 5 + 3 + 2)
        assert [timed_of(record, p) for p in range(2)] == [5, 2]
        assert not is_complete(record, s)
        run(record, s, [1.0], first=10)
        assert [timed_of(record, p) for p in (0, 1, 10, 11)] == [5, 2, 5, 5]
        assert is_complete(record, s)

    def test_a_process_that_ended_with_three_is_complete_and_the_next_ones_do_what_it_left(self):
        s, record = ProtocolSettings(rounds=1), []
        run(record, s, [1.0], stop_after=3 + 5 + 3 + 3)
        run(record, s, [1.0], first=10)
        assert [timed_of(record, p) for p in (0, 1, 10, 11)] == [5, 3, 7, 0]

    def test_a_part_of_the_processes_makes_its_part_of_the_repetitions(self):
        s = ProtocolSettings(rounds=1, min_repeats=25)
        assert plan_repetitions([a_sample(i) for i in range(10)], s, 0, None, processes=1).is_empty
        assert plan_repetitions([a_sample(i) for i in range(10)], s, 0, None, processes=2).repetitions == 10

    @settings(max_examples=300, deadline=None)
    @given(
        processes=st.integers(1, 4),
        rounds=st.integers(1, 4),
        pilot=st.integers(2, 6),
        min_repeats=st.integers(0, 15),
        kills=st.lists(st.integers(0, 14), max_size=4),
        latencies=st.lists(st.floats(0.9, 1.1), min_size=6, max_size=6),
    )
    def test_a_killed_run_ends_with_enough_repetitions_in_enough_processes(
        self, processes, rounds, pilot, min_repeats, kills, latencies
    ):
        s = ProtocolSettings(
            processes=processes, rounds=rounds, pilot=pilot, min_repeats=min_repeats, max_repeats=20
        )  # fmt: skip
        undisturbed, killed = [], []
        run(undisturbed, s, latencies)
        for number, after in enumerate(kills):
            run(killed, s, latencies, stop_after=after, first=100 * (number + 1))
        run(killed, s, latencies)
        for record in (undisturbed, killed):
            for is_warmup in (False, True):
                indices = [x.index for x in record if x.is_warmup is is_warmup]
                assert indices == list(range(len(indices)))
            assert is_complete(record, s)
        timed = [x for x in killed if not x.is_warmup]
        if processes == 1:
            assert len(timed) == pilot + further_repetitions([latencies[i % 6] for i in range(pilot)], s)
        else:
            counts = Counter(x.process_id for x in timed)
            assert sum(n >= MIN_PER_PROCESS for n in counts.values()) == processes


def is_complete(record, s):
    return all(plan_repetitions(record, s, r, None).is_empty for r in range(s.rounds))


def timed_of(record, process, round_index=None):
    of = [x for x in record if x.process_id == process and not x.is_warmup]
    return len([x for x in of if round_index in (None, x.round)])


def carry_out(visit, record, round_index, latencies=(1.0,), limit=10**6, process=1):
    """Append what the visit asks for, up to `limit` repetitions in all."""
    jobs = [(visit.first_warmup_index + i, True) for i in range(visit.warmups)]
    jobs += [(visit.first_index + i, False) for i in range(visit.repetitions)]
    for index, is_warmup in jobs[:limit]:
        latency_s = latencies[index % len(latencies)]
        record.append(a_sample(index, is_warmup=is_warmup, round_index=round_index, latency_s=latency_s,
                               process_id=process))  # fmt: skip
    return visit


def run(record, s, latencies, stop_after=10**6, first=0):
    """What a run does from these records on; its processes are numbered from `first`."""
    end = len(record) + stop_after
    for process in range(first, first + s.processes):
        for round_index in range(s.rounds):
            while not (visit := plan_repetitions(record, s, round_index, process)).is_empty:
                carry_out(visit, record, round_index, latencies, end - len(record), process)
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
            generate, clock, cell_id="c", index=4, is_warmup=False, round_index=1, process_id=8, loaded_since_s=8.0,
            meter=GpuMeter(),
            host=HostLoad(),
            useful_tokens=lambda g: g.new_tokens - 1, output_bytes=lambda g: None,
        )  # fmt: skip
        assert out is generation
        assert clock.calls == ["synchronize", "wall", "mark", "generate", "mark", "synchronize", "wall"]
        assert (sample.latency_s, sample.wall_s, sample.clock) == (1.5, 2.75, "fake")
        assert (sample.index, sample.round, sample.is_warmup) == (4, 1, False)
        assert (sample.process_id, sample.load_s) == (8, 2.0)
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

        traced = traced_pass(generate, clock, cell_id="c", process_id=8, is_autoregressive=True)
        assert clock.calls == ["synchronize", *["mark"] * 6, "synchronize"]
        assert (traced.first_token_s, traced.prefill_s, traced.traced_s) == (0.5, 0.5, 1.2)
        assert traced.inter_token_s == pytest.approx(0.7 / 3, rel=1e-12)
        assert traced.inter_token_p50_s == pytest.approx(0.2, rel=1e-12)
        assert traced.inter_token_p95_s == pytest.approx(0.29, rel=1e-12)
        assert (traced.first_block_s, traced.step_p50_s) == (None, None)

    def test_a_single_token_has_no_time_between_tokens(self):
        def generate(on_step):
            on_step(1)
            return Generation(((1,),), 1, 0, 0)

        traced = traced_pass(generate, FakeClock([0, 1, 2]), cell_id="c", process_id=8, is_autoregressive=True)
        assert (traced.first_token_s, traced.inter_token_s, traced.inter_token_p50_s) == (1, None, None)

    def test_diffusion_shows_its_first_block_and_has_no_inter_token_time(self):
        marks = [1.0, 1.5, 2.5, 2.75]
        trace = Trace(((1, 2, 3, 4),), ((1.0,) * 4,), block_ends=(2, 4))

        def generate(on_step):
            for forwards in range(1, 5):
                on_step(forwards)
            return Generation(((1, 2, 3, 4),), 4, 0, 0, trace=trace)

        traced = traced_pass(
            generate, FakeClock([0.0, *marks, 3.0]), cell_id="c", process_id=8, is_autoregressive=False
        )
        assert traced.first_block_s == 1.5
        assert traced.step_p50_s == median([0.5, 1.0, 0.25])
        assert {traced.first_token_s, traced.prefill_s, traced.inter_token_s, traced.inter_token_p50_s} == {None}
