"""What a worker does: a cell keeps its graphs between visits, and anything that generates can be measured."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from dlmbench import registry
from dlmbench.bench.worker import (
    CellGenerator,
    Failed,
    GenerateMissing,
    MeterEnergy,
    Pool,
    ProfileCell,
    Repeat,
    Repetition,
    ScoreTexts,
    WorkerState,
    failure,
)
from dlmbench.errors import BenchError
from dlmbench.measure.protocol import RepetitionPlan
from dlmbench.types import (
    CommitOrder,
    EnergyWindow,
    Generation,
    MemoryPass,
    ModelSpec,
    Prompt,
    PromptBatch,
    Texts,
    Trace,
    TracedPass,
)
from support.synthetic_run import baseline_cell, target_cell

BATCH = PromptBatch((Prompt(0, (1, 2)), Prompt(1, (3, 4, 5))), "hash")


class FakeGenerator:
    """A `Generator` without a language model; `calls` lists what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def generate(self, batch, new_tokens, knobs, seed, on_step=None, trace=False):
        self.calls.append("trace" if trace else "generate")
        tokens_BG = tuple((7,) * (new_tokens - 1) + (2,) for _ in batch.prompts)
        if on_step is None:
            return Generation(tokens_BG, 2, 10, 100)
        for forwards in (1, 2):
            on_step(forwards)
        order = tuple((1,) * new_tokens for _ in batch.prompts)
        return Generation(tokens_BG, 2, 10, 100, trace=Trace(order, order, (1, 2)))

    def reset(self) -> None:
        self.calls.append("reset")


@pytest.fixture
def served(monkeypatch):
    """A worker whose engine gives a generator of its own instead of a language model."""
    generator = FakeGenerator()
    engine = SimpleNamespace(load=lambda spec, folder, **options: generator)
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: engine if kind == "engines" else load(kind, name))
    return WorkerState("cpu"), generator


def embedded(cell, family, source):
    spec = ModelSpec(family, family, f"embedded:{source}", cell.model.role)
    return replace(cell, model=spec, prompts="wikitext-103 n=2 seed=0")


CELLS = [embedded(target_cell(8), "llada", "llada"), embedded(baseline_cell(), "llama", "ar")]


def test_a_generator_without_a_language_model_is_timed(served):
    state, generator = served
    cell = CELLS[1]
    replies = list(Repeat(cell, RepetitionPlan(1, 2, 0, 0), 0, (BATCH,)).run(state))
    assert all(isinstance(r, Repetition) for r in replies)
    assert [r.sample.is_warmup for r in replies] == [True, False, False]
    assert generator.calls == ["reset", "generate", "generate", "generate"]
    sample = replies[1].sample
    assert (sample.new_tokens, sample.forwards, sample.positions) == (2 * cell.new_tokens, 2, 10)
    assert sample.latency_s > 0
    assert sample.output_bytes is not None
    assert [len(r.generations) for r in replies] == [0, 2, 2]
    stored = replies[1].generations[1]
    assert (stored.prompt_index, stored.prompt_hash, len(stored.output_ids)) == (1, "hash", cell.new_tokens)
    (first, second) = GenerateMissing(cell, (BATCH,)).run(state)
    assert (first.text, second.text) == (stored.text, stored.text)


@pytest.mark.parametrize("cell", CELLS)
def test_one_generation_from_a_clean_start_yields_memory_times_and_order_where_it_is_not_slower(served, cell):
    state, generator = served
    is_diffusion = cell is CELLS[0]
    for latency_s, more in ((1e9, 0), (1e-9, 1), (None, 1)):
        generator.calls.clear()
        traced, *rest = ProfileCell(cell, BATCH, latency_s).run(state)
        assert isinstance(traced, TracedPass)
        assert (traced.first_block_s is not None, traced.first_token_s is not None) == (is_diffusion, not is_diffusion)
        assert any(isinstance(reply, CommitOrder) and reply.forwards == 2 for reply in rest)
        assert any(isinstance(reply, MemoryPass) for reply in rest)
        # The first token of an autoregressive cell would show the clean start whatever the whole took.
        expected = ["trace"] * (1 + (more if is_diffusion else 1))
        assert [call for call in generator.calls if call != "reset"] == expected
        assert generator.calls[0] == "reset"


def test_energy_is_a_reply_only_where_the_device_counts_it(served, monkeypatch):
    state, generator = served
    assert list(MeterEnergy(CELLS[1], BATCH).run(state)) == []
    assert "generate" not in generator.calls

    def window(cell_id, process_id, generate, clock, meter):
        generate()
        return EnergyWindow(cell_id, process_id, 1, 3.0, 300.0, 30)

    monkeypatch.setattr("dlmbench.bench.worker.measure_energy", window)
    (reply,) = MeterEnergy(CELLS[1], BATCH).run(state)
    assert (reply.cell_id, reply.energy_j) == (CELLS[1].id, 300.0)
    assert generator.calls[-1] == "generate"


def test_a_metric_that_needs_logits_cannot_score_such_a_model(served):
    state, _ = served
    with pytest.raises(BenchError, match="only texts, no logits"):
        list(ScoreTexts("likelihood", Texts(CELLS[1], BATCH.prompts)).run(state))


def test_a_cell_keeps_its_graphs_from_one_visit_to_the_next(served):
    state, generator = served
    other = replace(CELLS[0], knobs=(*CELLS[0].knobs[:-1], ("steps", 4)))
    first, second, third = RepetitionPlan(1, 1, 0, 0), RepetitionPlan(0, 1, 1, 1), RepetitionPlan(0, 1, 0, 0)
    for cell, visit in ((CELLS[0], first), (CELLS[0], second), (other, third)):
        list(Repeat(cell, visit, 0, (BATCH,)).run(state))
    assert generator.calls == ["reset", "generate", "generate", "generate", "reset", "generate"]


def test_useful_tokens_end_with_the_first_end_of_text():
    rows = Generation(((5, 2, 2, 9), (5, 6, 7, 8)), 1, 1, 1)
    assert CellGenerator(CELLS[0], FakeGenerator(), None, (2,)).useful_tokens(rows) == 2 + 4
    assert CellGenerator(CELLS[0], FakeGenerator(), None, (7, 2)).useful_tokens(rows) == 2 + 3
    assert CellGenerator(CELLS[0], FakeGenerator(), None, ()).useful_tokens(rows) is None


def test_an_end_of_text_means_nothing_in_texts_without_one_and_for_random_weights(served):
    state, _ = served
    cell = CELLS[1]
    assert state.generator(cell).eos_ids
    assert state.generator(replace(cell, prompts="tiny n=32 seed=0")).eos_ids == ()
    assert state.generator(replace(cell, model=replace(cell.model, weights="random"))).eos_ids == ()


class Crash:
    """A request that kills its process."""

    def run(self, state):
        import os

        os._exit(3)
        yield


class Refused:
    """A request that cannot be carried out."""

    def run(self, state):
        raise BenchError("no", "because")
        yield


def test_a_reason_does_not_name_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/jane")
    assert failure(BenchError("/home/jane/llada: broken", "Fix it")).reason == "~/llada: broken. Fix it"
    assert failure(OSError("no /home/jane/x")).reason == "OSError: no ~/x"


def test_a_request_that_fails_or_kills_the_process_is_a_reply_and_the_next_one_is_answered():
    with Pool({"m"}, "cpu") as pool:
        worker = pool.worker("m")
        assert list(worker.ask(Refused())) == [Failed("error", "no. because")]
        (died,) = worker.ask(Crash())
        assert died == Failed("error", "the model's process died: exit code 3")
        assert len(list(worker.ask(Refused()))) == 1


class Hang:
    """A request that answers once and never again."""

    def run(self, state):
        import time

        yield "one"
        time.sleep(1000)


def test_a_process_that_hangs_is_ended_and_the_next_request_starts_another():
    with Pool({"m"}, "cpu") as pool:
        worker = pool.worker("m")
        list(worker.ask(Refused()))  # the process imports this module for its first request, which may take long
        assert list(worker.ask(Hang(), silence_s=1)) == [
            "one",
            Failed("error", "the model's process gave no answer for 1 s and was ended"),
        ]
        assert list(worker.ask(Refused(), silence_s=60)) == [Failed("error", "no. because")]


def test_a_process_that_cannot_start_is_a_reply_and_the_next_request_tries_again(monkeypatch):
    def no_memory(*_):
        raise OSError(12, "Cannot allocate memory")

    with Pool({"m"}, "cpu") as pool:
        worker = pool.worker("m")
        for broken in ("multiprocessing.context.SpawnProcess.start", "multiprocessing.context.SpawnContext.Pipe"):
            with monkeypatch.context() as patched:
                patched.setattr(broken, no_memory)
                pool.start({"m": baseline_cell()})
                (failed,) = worker.ask(Refused())
            assert failed == Failed("error", "the model's process did not start: [Errno 12] Cannot allocate memory")
        assert list(worker.ask(Refused())) == [Failed("error", "no. because")]
