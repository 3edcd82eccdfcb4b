"""What a worker does between requests: records of a cell are kept for it, and a traced time is never a first time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dlmbench.bench import worker
from dlmbench.measure.protocol import RepetitionPlan
from dlmbench.types import Generation, MemoryPass, Prompt, PromptBatch, TracedPass
from support.synthetic_run import baseline_cell, target_cell

BATCH = PromptBatch((Prompt(0, (1, 2)),), "")


class Recording:
    """A model that takes note of what is asked of it."""

    architecture = SimpleNamespace(eos_id=None)

    def __init__(self) -> None:
        self.asked: list[str] = []

    def forget(self) -> None:
        self.asked.append("forget")


@pytest.fixture
def served(monkeypatch):
    """A worker's server around such a model, and what was asked: forget, generate, trace."""
    model, server = Recording(), worker._Server(None, "cpu")

    def generate(cell, _, batch, observer=None, trace=False):
        model.asked.append("trace" if trace else "generate")
        return Generation(tuple((7,) * cell.new_tokens for _ in batch.prompts), 1, 1, 1)

    monkeypatch.setattr(server, "_generate", generate)
    monkeypatch.setattr(server, "load", lambda cell: worker._Model(("m",), model, None))
    return server, model.asked


def test_a_cell_keeps_its_records_from_one_visit_to_the_next(served):
    server, asked = served
    for cell, visit in (
        (target_cell(8), RepetitionPlan(1, 1, 0, 0)),
        (target_cell(8), RepetitionPlan(0, 1, 1, 1)),
        (target_cell(4), RepetitionPlan(0, 1, 0, 0)),
    ):
        list(server.answer(worker.Repeat(cell, visit, 0, (BATCH,))))
    assert asked == ["forget", "generate", "generate", "generate", "forget", "generate"]


@pytest.mark.parametrize("cell", [target_cell(8), baseline_cell()])
def test_inner_times_come_from_a_second_traced_generation_and_memory_from_a_clean_start(served, cell):
    server, asked = served
    replies = server.answer(worker.Inspect(cell, BATCH))
    assert isinstance(next(replies), TracedPass)
    assert asked == ["forget", "trace", "trace"]
    assert any(isinstance(reply, MemoryPass) for reply in replies)
    assert asked == ["forget", "trace", "trace", "forget", "generate"]
