"""What a run hands to its passes: prompts that both models can be scored on, and what cells are dealt out by."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dlmbench.bench.forecast import Expectation, RunForecast, load_seconds, process_s
from dlmbench.bench.run import _dealing, _Prompts
from dlmbench.models import FoundModel
from dlmbench.prompts import BYTES
from dlmbench.roofline.models_8b import LLADA_8B, LLAMA_8B
from dlmbench.types import Plan, PromptSettings, ProtocolSettings
from support.synthetic_run import LLADA, LLAMA, baseline_cell, target_cell

# ---------------------------------------------------------------- prompts

SHAPE = (2, 3)
TEXT = {"prompt": "abcd", "reference": "efghé!"}


def pairs():
    """A tokenizer of two bytes a token, so that é may lie in two of them."""

    def encode(text):
        data = text.encode() + b" " * (len(text.encode()) % 2)
        return tuple(256 * a + b for a, b in zip(data[::2], data[1::2], strict=True))

    def decode(ids):
        return b"".join(i.to_bytes(2, "big") for i in ids).decode(errors="replace")

    return SimpleNamespace(encode=encode, decode=decode, chat=None, content="pairs")


def prompts_of(tmp_path, record, tokenizers):
    """The prompts of a run of a baseline and a target with these tokenizers, and its cells."""
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(record) + "\n")
    cells = [baseline_cell(prompt=SHAPE[0], new=SHAPE[1]), target_cell(2, prompt=SHAPE[0], new=SHAPE[1])]
    found = {
        spec.key: FoundModel(spec, None, LLAMA_8B, tokenizer)
        for spec, tokenizer in zip((LLAMA, LLADA), tokenizers, strict=True)
        if tokenizer is not False
    }
    return _Prompts(PromptSettings("file", None, str(path)), found, [c for c in cells if c.model.key in found])


def test_a_baseline_of_another_tokenizer_is_scored_on_the_targets_bytes(tmp_path):
    made = prompts_of(tmp_path, TEXT, (None, pairs()))
    (speed,) = made.speed[LLAMA.key, *SHAPE].prompts
    assert (len(speed.ids), len(speed.reference_ids)) == SHAPE, "timed on as many tokens as the target"
    (target,) = made.quality[LLADA.key, *SHAPE].prompts
    (baseline,) = made.quality[LLAMA.key, *SHAPE].prompts
    # Three tokens of the target are ef, gh and é.
    assert (target.scored, target.reference_text) == (None, "efghé")
    assert (baseline.text, baseline.reference_text) == ("abcd", "efghé")
    assert (baseline.ids, baseline.reference_ids) == (BYTES.encode("abcd"), BYTES.encode("efghé"))
    assert baseline.scored_tokens == 3, "nats per token are per token of the target"
    batches = [made.quality[key, *SHAPE] for key in (LLAMA.key, LLADA.key)]
    assert batches[0].prompt_hash == batches[1].prompt_hash


def test_half_a_character_is_scored_by_neither(tmp_path):
    made = prompts_of(tmp_path, {"prompt": "abcd", "reference": "efgxhé!"}, (None, pairs()))
    (target,) = made.quality[LLADA.key, *SHAPE].prompts
    (baseline,) = made.quality[LLAMA.key, *SHAPE].prompts
    # The third token is h with the first byte of é.
    assert target.scored == (0, 2)
    assert baseline.reference_text == "efgx"
    assert baseline.scored_tokens == 2


def test_a_second_target_is_scored_on_its_own_whole_characters(tmp_path):
    made = prompts_of(tmp_path, {"prompt": "abcd", "reference": "efé!"}, (pairs(), pairs()))
    second = replace(LLAMA, role="target")
    found = made._models | {LLAMA.key: FoundModel(second, None, LLAMA_8B, None)}
    cells = [baseline_cell(prompt=2, new=3, model=second), target_cell(2, prompt=2, new=3)]
    both = _Prompts(made._settings, dict(sorted(found.items())), cells)
    assert [both.quality[key, 2, 3].prompts[0].scored for key in sorted(found)] == [None, (0, 2)]
    assert both.quality == both.speed


@pytest.mark.parametrize(
    ("record", "tokenizers", "continued"),
    [
        (TEXT, (pairs(), pairs()), [True, True]),  # the same tokenizer
        (TEXT, (None, False), [True]),  # no target
        ({"prompt": "abcd"}, (None, pairs()), [False, False]),  # no continuation
        ({"prompt": "abcdefgh"}, (None, pairs()), [True, False]),  # eight tokens of the baseline, four of the target
        ({"prompt": "abcdefgh"}, (pairs(), None), [False, True]),
    ],
)
def test_everywhere_else_quality_has_the_prompts_of_speed(tmp_path, record, tokenizers, continued):
    made = prompts_of(tmp_path, record, tokenizers)
    assert made.quality == made.speed
    assert [bool(p.reference_ids) for batch in made.quality.values() for p in batch.prompts] == continued


# ---------------------------------------------------------------- several devices

CELLS = tuple(replace(c, engine=e) for c in (baseline_cell(), target_cell(8)) for e in ("hf", "native"))
KNOWN = {LLAMA.key: LLAMA_8B, LLADA.key: LLADA_8B}
PROTOCOL = ProtocolSettings()


def dealt(is_seconds, on_gpu=True, concurrent=False, too_large=()):
    weight = lambda cell: None if cell is CELLS[3] else 2.0  # noqa: E731
    outlook = RunForecast(None, Expectation(weight, is_seconds), {c.id: "too large" for c in too_large})
    return _dealing(outlook, Plan(CELLS), KNOWN, PROTOCOL, on_gpu=on_gpu, concurrent=concurrent)


def test_cells_are_dealt_out_by_seconds_or_by_work_where_the_device_is_unknown():
    ids = [c.id for c in CELLS[:3]]
    by_time, by_work = dealt(True), dealt(False)
    assert by_time.seconds == dict.fromkeys(ids, process_s(2.0, PROTOCOL))
    assert by_time.load_s == load_seconds(CELLS, KNOWN)
    assert (by_work.seconds, by_work.load_s) == (dict.fromkeys(ids, 2.0), {})


def test_a_cell_that_will_not_fit_keeps_no_device_busy():
    seconds = dealt(True, too_large=CELLS[2:3]).seconds
    assert seconds[CELLS[2].id] < min(seconds[c.id] for c in CELLS[:2])


def test_cells_that_the_host_slows_run_alone_on_gpus_unless_all_at_once_is_wanted():
    assert dealt(True).alone == {c.id for c in CELLS if c.engine == "hf"}
    assert not dealt(True, concurrent=True).alone
    assert not dealt(True, on_gpu=False).alone
