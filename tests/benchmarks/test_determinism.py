"""The comparisons of benchmarks/determinism.py, on outcomes counted by hand."""

import math
import sys
from dataclasses import replace

import pytest

from support.examples import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import determinism

SETTING = determinism.Setting("LLaDA K=2", "native", "bfloat16", "math", 1, 0)
METRICS = dict.fromkeys(determinism.METRICS, 0.5)
ALONE = determinism.Outcome(
    SETTING,
    tokens=((1, 2, 3, 4), (5, 6, 7, 8), (1, 1, 1, 1)),
    metrics=METRICS,
    nats=(4.0, 8.0, 6.0),
    weights=(4.0, 4.0, 4.0),
)
TOGETHER = replace(
    ALONE,
    setting=replace(SETTING, batch_size=8),
    tokens=((1, 2, 3, 4), (5, 6, 0, 0), (1, 1, 1, 0)),
    metrics=METRICS | {"distinct_2": 0.75},
    nats=(4.0, 8.4, 5.8),
)


def test_rows_and_tokens_that_change():
    assert determinism.changed(ALONE.tokens, ALONE.tokens) == (0, 0)
    assert determinism.changed(ALONE.tokens, TOGETHER.tokens) == (2 / 3, 3 / 12)
    with pytest.raises(ValueError, match="zip"):
        determinism.changed(ALONE.tokens, ALONE.tokens[:2])


def test_one_comparison():
    row = determinism.compare("batch_size", ALONE, TOGETHER)
    assert (row["varied"], row["against"], row["batch_size"]) == ("batch_size", 1, 8)
    assert (row["distinct_2_change"], row["repetition_change"]) == (0.25, 0.0)
    assert row["likelihood_change"] == pytest.approx(0.2 / 12)
    assert row["likelihood_largest_change"] == pytest.approx(0.1)
    # Mean 1.5 nats a token; residuals of -2, 2 and 0 nats: sqrt(3 / 2 * 8) / 12.
    assert row["likelihood_stderr"] == pytest.approx(math.sqrt(12) / 12)


def test_each_outcome_is_compared_in_a_single_respect():
    other = replace(ALONE, setting=replace(SETTING, engine="hf", batch_size=8))
    again = replace(TOGETHER, setting=replace(TOGETHER.setting, process=1), metrics=None, nats=())
    failed = determinism.Outcome(replace(SETTING, attention="flash"), failure="cannot run")
    rows = list(determinism.comparisons([ALONE, TOGETHER, other, again, failed]))
    assert [(r["varied"], r["engine"], r["batch_size"], r["process"]) for r in rows[:3]] == [
        ("batch_size", "native", 8, 0),
        ("engine", "hf", 8, 0),
        ("process", "native", 8, 1),
    ]
    assert rows[2]["rows_changed"] == 0
    assert rows[2]["likelihood_change"] is None
    assert (rows[3]["failure"], rows[3]["varied"], rows[3]["rows_changed"]) == ("cannot run", None, None)
    assert all(r.keys() == rows[0].keys() for r in rows)


def test_the_page_shows_the_largest_change_and_what_cannot_run():
    rows = list(determinism.comparisons([ALONE, TOGETHER, determinism.Outcome(SETTING, failure="cannot run")]))
    table = determinism.page_table([{k: "" if v is None else str(v) for k, v in r.items()} for r in rows])
    assert "| batch size, against 1 | bfloat16 | native | LLaDA K=2 | 67% | 25.0% |" in table
    assert table.endswith("Cannot run: native, bfloat16, math.")


def test_ties_are_counted_before_each_step():
    import torch

    from dlmbench.types import Generation, Prompt, PromptBatch, Trace

    class Model:
        """Fixed logits: positions 0 and 1 of the new tokens tie, position 2 is less sure."""

        device = torch.device("cpu")
        architecture = type("A", (), {"mask_id": 4, "eos_id": 0, "pad_id": 0, "vocab_size": 5})

        def forward(self, tokens_BN):
            return tokens_BN

        def logits(self, hidden_BN, first, last):
            logits_1GV = torch.zeros(1, last - first, 5)
            logits_1GV[0, :, 1] = torch.tensor([3.0, 3.0, 1.0])
            return logits_1GV

    trace = Trace(((1, 2, 2),), ((0.9, 0.9, 0.5),), (2,))
    made = Generation(((1, 1, 1),), 2, 0, 0, trace=trace)
    batch = PromptBatch((Prompt(0, (1, 2)),), "h")
    knobs = {"temperature": 0.0, "confidence_dtype": "float32"}
    # Step 1: two of three masked positions tie, and one of the two is committed. Step 2: none of two ties.
    assert determinism.ties(Model(), batch, made, knobs) == (2, 5, 1, 2)
