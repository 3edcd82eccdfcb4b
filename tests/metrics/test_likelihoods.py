"""Every metric against a computation of its own, and none that drops a text without saying why."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.metrics import elbo, likelihood, unigram_entropy
from dlmbench.models.engines import hf
from dlmbench.sampling.samplers import masked_diffusion
from dlmbench.scoring.settings import parse_settings, settle
from dlmbench.scoring.texts import sizes
from dlmbench.tiny import checkpoint_folder
from dlmbench.types import (
    Cell,
    MetricRequest,
    ModelSpec,
    Prompt,
    PromptBatch,
    StoredGeneration,
    Texts,
    TextScore,
    Unscored,
)
from support.checkpoints import LLADA, LLAMA, write_checkpoint

MASK = 60


def model_of(tmp_path, config):
    folder = write_checkpoint(tmp_path / config["model_type"], config, seed=3, scale=0.3)
    spec = ModelSpec("m", config["model_type"], str(folder), "baseline")
    return hf.load(spec, folder, precision="float32", attention="auto", device="cpu")


def cell_of(family: str, new_tokens: int, prompts: str = "tiny-1", **knobs) -> Cell:
    role = "baseline" if family == "llama" else "target"
    sampler = "autoregressive" if family == "llama" else "masked_diffusion"
    given = {k.name: k.default for k in registry.knobs_of(sampler, knobs).values()} | knobs
    module = registry.load("samplers", sampler)
    settled = module.resolve(given, "hf", new_tokens) if hasattr(module, "resolve") else given
    model = ModelSpec(family, family, "folder", role)
    return Cell(model, "hf", sampler, tuple(sorted(settled.items())), 1, 3, new_tokens, "float32", "auto", 5, prompts)


def prompt(index: int, ids, reference, **more) -> Prompt:
    return Prompt(index, tuple(ids), "before", tuple(reference), "three short words", **more)


# ---------------------------------------------------------------- likelihoods


def test_the_exact_likelihood_is_the_chain_rule_one_token_at_a_time(tmp_path):
    from transformers import LlamaForCausalLM

    model = model_of(tmp_path, LLAMA)
    plain = LlamaForCausalLM.from_pretrained(tmp_path / "llama", dtype=torch.float32).eval()
    prompts = (prompt(0, [5, 9, 13], [7, 21, 40, 2]), prompt(1, [8, 30, 4], [11, 12, 13, 14]))
    found = list(likelihood.score(Texts(cell_of("llama", 4), prompts, model=model)))
    for one, score in zip(prompts, found, strict=True):
        ids, nats = list(one.ids), 0.0
        for token in one.reference_ids:
            with torch.no_grad():
                logits_V = plain(torch.tensor([ids])).logits[0, -1].double()
            nats -= float(logits_V[token] - torch.logsumexp(logits_V, 0))
            ids.append(token)
        assert score.total == pytest.approx(nats, rel=1e-4)
        assert (score.weight, score.stderr) == (4, None)
        assert (score.size_bytes, score.words) == (17, 3)


def test_bytes_words_and_tokens_are_those_of_the_scored_span(tmp_path):
    """Tokens outside the span (parts of a character) are in neither numerator nor denominator."""
    model = model_of(tmp_path, LLAMA)
    whole = prompt(0, [5, 9, 13], [7, 21, 40, 2])
    part = prompt(0, [5, 9, 13], [7, 21, 40, 2], scored=(1, 3), scored_tokens=5)
    cell = cell_of("llama", 4)
    (all_,), (some,) = (list(likelihood.score(Texts(cell, (p,), model=model))) for p in (whole, part))
    (rest,) = likelihood.score(Texts(cell, (prompt(0, [5, 9, 13, 7], [21, 40]),), model=model))
    assert some.total == pytest.approx(rest.total, rel=1e-4)
    assert some.total < all_.total
    assert some.weight == 5
    assert sizes("zwölf Boxkämpfer ") == (19, 2)
    assert sizes("") == (None, None)


def exact_elbo(model, one: Prompt) -> float:
    """Every mask of every size, none drawn: the sum over x of 1/T, over subsets of size x, of T/x times CE."""
    truth, T = list(one.reference_ids), len(one.reference_ids)
    total = 0.0
    for x in range(1, T + 1):
        subsets = list(itertools.combinations(range(T), x))
        for hidden in subsets:
            seen = [MASK if i in hidden else t for i, t in enumerate(truth)]
            tokens = torch.tensor([[*one.ids, *seen]])
            with torch.no_grad():
                logits = model.logits(model.forward(tokens), len(one.ids), tokens.shape[1])[0].double().clone()
            logits[:, MASK] = -math.inf
            log_p = logits.log_softmax(-1)
            total += -sum(float(log_p[i, truth[i]]) for i in hidden) * (T / x) / len(subsets) / T
    return total


def test_the_elbo_and_its_error_hold_the_exact_bound(tmp_path):
    model = model_of(tmp_path, LLADA)
    one = prompt(0, [5, 9, 13], [7, 21, 40, 33])
    exact = exact_elbo(model, one)
    cell = cell_of("llada", 4)
    request = MetricRequest("elbo", (("draws", 512),))
    (found,) = elbo.score(Texts(cell, (one,), model=model, rows=4, request=request))
    assert 0 < found.stderr < 0.05 * exact
    assert abs(found.total - exact) < 4 * found.stderr
    assert (found.weight, found.size_bytes, found.remark) == (4, 17, "512 draws")
    # The error is that of the groups of draws, which share their counts: seen over seeds it is the right size.
    several = [elbo.estimate(Texts(replace(cell, seed=s), (one,), model=model, rows=4), one, 64) for s in range(30)]
    spread = statistics.stdev(e.nats for e in several)
    assert spread == pytest.approx(statistics.fmean(e.stderr for e in several), rel=0.5)
    assert elbo.estimate(Texts(cell, (one,), model=model, rows=64), one, 64).stderr is None  # one group has no spread


def test_the_random_rule_is_a_mean_over_orders_and_meets_the_bound(tmp_path):
    model = model_of(tmp_path, LLADA)
    one = prompt(4, [5, 9, 13], [7, 21, 40, 33])
    cell = cell_of("llada", 4, commit="random", steps=4)
    (found,) = likelihood.score(Texts(cell, (one,), model=model, request=MetricRequest("likelihood", (("orders", 6),))))
    batch = PromptBatch((one,), "")
    each = [
        -sum(masked_diffusion.log_likelihood(model, batch, dict(cell.knobs), 5 + i).log_prob_BG[0]) for i in range(6)
    ]
    assert found.total == pytest.approx(np.mean(each))
    assert found.stderr == pytest.approx(stats.sem(each))
    assert found.remark == "6 sampled orders"
    assert "estimate" in likelihood.note(cell)
    many = MetricRequest("likelihood", (("orders", 200),))
    (found,) = likelihood.score(Texts(cell, (one,), model=model, request=many))
    assert abs(found.total - exact_elbo(model, one)) < 4 * found.stderr  # one position a step: the bound itself


def test_a_deterministic_rule_has_no_monte_carlo_error_and_depends_on_the_steps(tmp_path):
    model = model_of(tmp_path, LLADA)
    one = prompt(0, [5, 9, 13], [7, 21, 40, 33])
    cells = [cell_of("llada", 4, steps=k) for k in (1, 4)]
    by_steps = [score for cell in cells for score in likelihood.score(Texts(cell, (one,), model=model))]
    assert [s.stderr for s in by_steps] == [None, None]
    assert by_steps[0].total != pytest.approx(by_steps[1].total, rel=1e-3)
    tokens = torch.tensor([[*one.ids, *([MASK] * 4)]])
    logits = model.logits(model.forward(tokens), 3, 7)[0].double().clone()
    logits[:, MASK] = -math.inf
    at_once = -sum(float(logits.log_softmax(-1)[i, t]) for i, t in enumerate(one.reference_ids))
    assert by_steps[0].total == pytest.approx(at_once, rel=1e-5)


# ---------------------------------------------------------------- variety


def generated(index: int, ids, text: str | None = "x") -> StoredGeneration:
    return StoredGeneration("c", index, "h", tuple(ids), text, 1, None, None)


def test_unigram_entropy_is_scipys():
    ids = [3, 3, 3, 7, 7, 9]
    texts = Texts(cell_of("llama", 6), (), (generated(0, ids), generated(1, [])))
    found, none = unigram_entropy.score(texts)
    assert found.total == pytest.approx(stats.entropy(np.unique(ids, return_counts=True)[1]))
    assert none == Unscored(texts.cell.id, "unigram_entropy", 1, "no tokens")


# ---------------------------------------------------------------- no metric drops a text

OFFLINE = [n for n in registry.names("metrics") if "own model" not in registry.load("metrics", n).NEEDS]


@pytest.mark.parametrize("metric", [n for n in OFFLINE if not hasattr(registry.load("metrics", n), "REFUSED")])
def test_every_text_has_a_value_or_a_reason(metric):
    """One whole text, one empty, one of two tokens, one without a true continuation."""
    family = "llada" if "diffusion" in registry.load("metrics", metric).NEEDS else "llama"
    folder = checkpoint_folder("llada" if family == "llada" else "ar")
    spec = ModelSpec(family, family, str(folder), "baseline")
    model = hf.load(spec, folder, precision="float32", attention="auto", device="cpu")
    from dlmbench.models.tokenizer import CheckpointTokenizer

    codec = CheckpointTokenizer(folder)
    words = "she took the yellow letter and gave it to eric ."
    ids = codec.encode(words)
    prompts = tuple(
        Prompt(i, tuple(ids[:4]), "b", None if i == 3 else tuple(ids[4:]), None if i == 3 else words) for i in range(4)
    )
    made = tuple(generated(i, ids if i in (0, 3) else ids[: i and 2] if i == 2 else []) for i in range(4))
    cell = cell_of(family, len(ids) - 4)
    (request,) = settle([metric], {"elbo": {"draws": 2}}.get(metric, {}) and {metric: {"draws": 2}})
    found = list(registry.load("metrics", metric).score(Texts(cell, prompts, made, model, request=request)))
    assert sorted(r.prompt_index for r in found) == [0, 1, 2, 3]
    for result in found:
        assert result.metric == metric
        if isinstance(result, TextScore):
            assert math.isfinite(result.total)
            assert result.weight > 0
        else:
            assert result.reason


# ---------------------------------------------------------------- what is asked for


def test_a_causal_perplexity_is_refused_with_the_reason():
    with pytest.raises(BenchError, match="masked diffusion model") as refused:
        settle(["perplexity"], {})
    assert "likelihood" in refused.value.hint


@pytest.mark.parametrize(
    ("metric", "settings", "says"),
    [
        ("likelyhood", {}, "unknown metric"),
        ("elbo", {"drawz": 3}, "no setting 'drawz'"),
        ("elbo", {"draws": "many"}, "is not an int"),
        ("elbo", {"draws": 0}, "1 or more"),
        ("likelihood", {"orders": 1}, "2 or more"),
        ("repetition", {"size": 4}, "no setting 'size'"),
        ("judge_likelihood", {}, "needs a judge"),
        ("judge_likelihood", {"judge": "/nowhere"}, "no model folder at /nowhere"),
        ("judge_likelihood", {"judge": "embedded:llada"}, "masked model predicts masked positions"),
        ("mauve", {"judge": "embedded:ar", "fewest": 2}, "4 or more"),
    ],
)
def test_what_is_wrong_with_a_request_is_said_before_anything_is_measured(metric, settings, says):
    with pytest.raises(BenchError, match=says):
        settle([metric], {metric: settings})


def test_the_command_line_gives_judge_and_settings_to_the_metrics_that_have_them():
    asked = ["judge_likelihood", "unigram_entropy", "elbo"]
    given = parse_settings(asked, "embedded:ar", ["elbo.draws=32"])
    assert given == {"judge_likelihood": {"judge": "embedded:ar"}, "elbo": {"draws": "32"}}
    requests = {r.name: r for r in settle(asked, given)}
    assert requests["elbo"].setting("draws") == 32
    assert requests["judge_likelihood"].judge == "embedded:ar"
    for arguments, says in (
        ((["elbo"], "embedded:ar", []), "none of the requested metrics"),
        ((["elbo"], None, ["elbo=3"]), "METRIC.NAME=VALUE"),
        ((["elbo"], None, ["mauve.judge=x"]), "not requested"),
    ):
        with pytest.raises(BenchError, match=says):
            parse_settings(*arguments)
