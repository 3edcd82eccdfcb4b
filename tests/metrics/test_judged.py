"""Metrics that load a model of their own: judge, MAUVE, BERTScore, each against a computation of its own."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dlmbench.errors import BenchError
from dlmbench.metrics import bertscore, judge_likelihood, judge_truth, mauve
from dlmbench.tiny import checkpoint_folder
from dlmbench.types import Cell, ModelSpec, Prompt, StoredGeneration, Texts, TextScore, Unscored, WholeScore
from support.encoders import write_bert, write_roberta

CELL = Cell(
    *(ModelSpec("m", "llama", "x", "baseline"), "hf", "autoregressive", (("temperature", 0.0),)),
    *(1, 8, 8, "float32", "auto", 0, "tiny-1"),
)
BEFORE = "she took the silver letter and gave it to eric ."
TRUE = "she counted her silver buttons , there were three ."


def texts(request, pairs) -> Texts:
    """(reference, generated) pairs, all after the same prompt."""
    prompts = tuple(
        Prompt(i, (1,), BEFORE, (1,) if reference else None, reference) for i, (reference, _) in enumerate(pairs)
    )
    made = tuple(StoredGeneration(CELL.id, i, "h", (1,), text, 1, None, None) for i, (_, text) in enumerate(pairs))
    return Texts(CELL, prompts, made, request=request)


# ---------------------------------------------------------------- the judge


def by_the_chain_rule(before: str, text: str) -> tuple[float, int]:
    """-log p(text | before) a token at a time, by transformers' own tokenizer and model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = checkpoint_folder("ar")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids, nats = tokenizer(before)["input_ids"], 0.0
    own = tokenizer(text)["input_ids"]
    for token in own:
        with torch.no_grad():
            nats -= float(model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)[token])
        ids = [*ids, token]
    return nats, len(own)


def test_the_judge_reads_text_by_the_chain_rule_and_names_what_it_cannot_read():
    request = judge_likelihood.prepare(judge_likelihood.SETTINGS("embedded:ar"))
    made = "she took the yellow letter ."
    given = [(TRUE, made), (TRUE, ""), (TRUE, None), (TRUE, "quux"), (TRUE, " ".join(["she"] * 600))]
    found = list(judge_likelihood.score(texts(request, given)))
    nats, tokens = by_the_chain_rule(BEFORE, made)
    assert found[0].total == pytest.approx(nats, rel=1e-4)
    assert (found[0].weight, found[0].size_bytes, found[0].words) == (tokens, len(made), 6)
    reasons = {r.prompt_index: r.reason for r in found if isinstance(r, Unscored)}
    assert reasons[1] == "empty text"
    assert "have no tokenizer" in reasons[2]
    assert "cannot encode '" in reasons[3]
    assert "not in its vocabulary" in reasons[3]
    assert "610 tokens" in reasons[4] or "611 tokens" in reasons[4]
    assert len(found) == 5


def test_a_last_broken_character_is_an_artefact_of_the_cut_and_not_judged():
    request = judge_likelihood.prepare(judge_likelihood.SETTINGS("embedded:ar"))
    whole, cut = judge_likelihood.score(texts(request, [(TRUE, "she took"), (TRUE, "she took\ufffd")]))
    assert whole.total == cut.total


def test_the_line_of_the_truth_is_the_same_reading_of_the_true_text():
    request = judge_truth.prepare(judge_truth.SETTINGS("embedded:ar"))
    found, none = judge_truth.score(texts(request, [(TRUE, "she took"), ("", "she took")]))
    assert found.total == pytest.approx(by_the_chain_rule(BEFORE, TRUE)[0], rel=1e-4)
    assert isinstance(none, Unscored)
    other = replace(CELL, sampler="masked_diffusion", knobs=(("steps", 4),))
    assert judge_truth.same_value(CELL) == judge_truth.same_value(other)


def test_a_masked_encoder_cannot_judge(tmp_path):
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BenchError, match="no probability of a next token"):
        judge_likelihood.prepare(judge_likelihood.SETTINGS(str(tmp_path)))


# ---------------------------------------------------------------- MAUVE


def closed_form(p: np.ndarray, q: np.ndarray, scale: float = 5.0) -> float:
    """Area under the divergence curve of two histograms (Pillutla et al. 2021, section 2), at the package's points."""

    def kl(a, b):
        return float(sum(x * np.log(x / y) for x, y in zip(a, b, strict=True) if x > 0))

    points = [(0.0, 1.0), (1.0, 0.0)]
    for w in np.linspace(1e-6, 1 - 1e-6, 25):
        r = w * p + (1 - w) * q
        points.append((np.exp(-scale * kl(q, r)), np.exp(-scale * kl(p, r))))
    xs, ys = np.array(sorted(points)).T
    one = float(np.trapezoid(ys, xs))
    ys, xs = np.array(sorted((y, x) for x, y in points)).T
    return (one + float(np.trapezoid(xs, ys))) / 2


@pytest.mark.parametrize("share", [0.25, 0.75, 1.0])
def test_mauve_of_two_kinds_of_text_is_the_closed_form(share):
    """The true texts are half of one kind and half of another, `share` of the generated ones of the first kind."""
    request = mauve.prepare(mauve.SETTINGS("embedded:ar", fewest=4))
    kinds = (TRUE, "eric was sad and went to the lake with the old dog")
    n = 8
    pairs = [(kinds[i % 2], kinds[0] if i < share * n else kinds[1]) for i in range(n)]
    (found,) = mauve.score(texts(request, pairs))
    assert isinstance(found, WholeScore)
    assert found.n == n
    assert "rough" in found.remark
    assert found.value == pytest.approx(closed_form(np.array([share, 1 - share]), np.array([0.5, 0.5])), abs=1e-6)


def test_mauve_names_texts_without_features_and_refuses_too_few():
    request = mauve.prepare(mauve.SETTINGS("embedded:ar"))
    found = list(mauve.score(texts(request, [(TRUE, "she took"), (TRUE, ""), ("", "she took")])))
    assert [r.prompt_index for r in found] == [1, 2, None]
    assert "too few" in found[-1].reason


# ---------------------------------------------------------------- BERTScore


def by_hand(folder, layer: int, reference: str, candidate: str) -> float:
    """Greedy matching of the layer's vectors, one pair at a time (Zhang et al. 2020, eq. 1-3)."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def vectors(text: str) -> np.ndarray:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[layer][0]
        return (states / states.norm(dim=-1, keepdim=True)).double().numpy()

    similar = vectors(candidate) @ vectors(reference).T
    # As in the package, CLS and SEP may be matched, but carry no weight.
    precision, recall = similar.max(1)[1:-1].mean(), similar.max(0)[1:-1].mean()
    return 2 * precision * recall / (precision + recall)


PAIRS = [
    ("anna walks to the lake .", "ben walks to the mill and is glad ."),
    ("ben is glad .", "the kites"),
    ("anna and ben walk to the red mill .", "anna ."),
    ("the lake", "the lake"),
]


@pytest.mark.parametrize("write", [write_bert, write_roberta])
def test_bertscore_is_the_greedy_matching_pair_by_pair(tmp_path, write):
    """Texts of different lengths in one batch; a path with t5 in it; a tokenizer that states no longest text."""
    folder = write(tmp_path / "project5" / "encoder")
    pairs = PAIRS if write is write_bert else [(r[:18], c[:18]) for r, c in PAIRS]
    request = bertscore.prepare(bertscore.SETTINGS(str(folder), 2))
    found = list(bertscore.score(texts(request, pairs)))
    assert [s.prompt_index for s in found] == [0, 1, 2, 3]
    for (reference, candidate), score in zip(pairs, found, strict=True):
        assert score.total == pytest.approx(by_hand(folder, 2, reference.strip(), candidate.strip()), abs=2e-5)
        assert (score.weight, score.remark) == (1, "")
    assert found[3].total == pytest.approx(1, abs=1e-5)


def test_bertscore_counts_an_empty_text_as_0_and_names_what_it_cut_or_left(tmp_path):
    folder = write_bert(tmp_path / "bert", positions=12)
    request = bertscore.prepare(bertscore.SETTINGS(str(folder), 3))
    given = [("anna walks", ""), ("anna walks", " \n"), ("", "anna"), ("anna walks", None), ("anna " * 30, "ben walks")]
    found = {r.prompt_index: r for r in bertscore.score(texts(request, given))}
    assert set(found) == set(range(5))
    for index in (0, 1):
        assert isinstance(found[index], TextScore)
        assert (found[index].total, found[index].weight) == (0.0, 1)
        assert "empty" in found[index].remark
    assert isinstance(found[2], Unscored)
    assert isinstance(found[3], Unscored)
    assert "12 tokens" in found[4].remark
    assert 0 < found[4].total <= 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (bertscore.SETTINGS("/nowhere/bert"), "needs an encoder: no model folder at /nowhere/bert"),
        (bertscore.SETTINGS("DIR", 9), "has 3 layers, not 9"),
        (bertscore.SETTINGS("DIR"), "has no layer that bert-score recommends"),
    ],
)
def test_bertscore_says_which_folder_and_layer_it_needs(tmp_path, settings, says):
    folder = write_bert(tmp_path / "bert")
    given = replace(settings, model=str(folder)) if settings.model == "DIR" else settings
    with pytest.raises(BenchError, match=says) as error:
        bertscore.prepare(given)
    assert "num_layers" in error.value.hint


def test_a_known_encoder_in_a_folder_of_its_name_needs_no_layer(tmp_path):
    request = bertscore.prepare(
        bertscore.SETTINGS(str(write_bert(tmp_path / "distilroberta-base" / "x").parent / "x"), 1)
    )
    assert request.judge.endswith("layer 1")
    assert bertscore._recommended_layer("/models/roberta-large/") == 17
    assert bertscore._recommended_layer(bertscore.DEFAULT_MODEL) == 17
