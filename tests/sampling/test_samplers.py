"""The conformance kit of samplers, run over every file in the samplers folder: a new one needs no edit here."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dlmbench import registry
from dlmbench.errors import BenchError, InvalidLogitsError
from dlmbench.metrics import elbo
from dlmbench.sampling.commit import factor as factor_rule
from dlmbench.sampling.denoise import BlockScores, quotas
from dlmbench.sampling.rng import choose_tokens
from dlmbench.sampling.samplers import autoregressive, masked_diffusion
from dlmbench.types import Cell, ModelSpec, Prompt, PromptBatch, Texts
from support.reference_sampler import factor_rule as literal_factor_rule
from support.reference_sampler import pick, run, schedule, threshold_rule

MASK, EOS = 60, 2
PARTS = {
    (sampler, *pair)
    for sampler in registry.names("samplers")
    for pair in itertools.product(*(registry.names(folder) for folder in registry.parts(sampler).values()))
}


def batch(*rows, first=0, references=None) -> PromptBatch:
    given_ = references or [None] * len(rows)
    return PromptBatch(
        tuple(Prompt(first + i, tuple(r), reference_ids=x) for i, (r, x) in enumerate(zip(rows, given_, strict=True))),
        "",
    )


def settled(sampler: str, new_tokens: int, **given_):
    module = registry.load("samplers", sampler)
    knobs = {k.name: k.default for k in registry.knobs_of(sampler, given_).values()}
    knobs |= {k: v for k, v in given_.items() if k in knobs}
    assert module.check(knobs, new_tokens) is None
    return module.resolve(knobs, "hf", new_tokens) if hasattr(module, "resolve") else knobs


@pytest.fixture(params=sorted(PARTS), ids="-".join)
def case(request, diffusion, causal):
    """(module, model, knobs by temperature) for each sampler and each choice of its parts."""
    sampler, *chosen = request.param
    module = registry.load("samplers", sampler)
    given_ = dict(zip(registry.parts(sampler), chosen, strict=True))
    if module.PARADIGM == "diffusion":
        given_ |= {"block_length": 4, "steps": 6, "threshold": 0.12, "factor": 2.0}
    model = diffusion if module.PARADIGM == "diffusion" else causal
    return module, model, lambda temperature: settled(sampler, 12, **given_, temperature=temperature)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_exactly_g_tokens_none_a_mask_and_the_same_again(case, temperature):
    module, model, knobs = case
    prompts = batch([5, 9, 13], [7, 30, 44])
    made = module.generate(model, prompts, 12, knobs(temperature), seed=3, trace=True)
    assert [len(row) for row in made.tokens_BG] == [12, 12]
    assert all(0 <= t < 61 for row in made.tokens_BG for t in row)
    if module.PARADIGM == "diffusion":
        assert MASK not in itertools.chain(*made.tokens_BG)
        assert {min(w) for w in made.trace.committed_at_BG} == {1}
        assert max(map(max, made.trace.committed_at_BG)) <= made.forwards
    assert module.generate(model, prompts, 12, knobs(temperature), seed=3).tokens_BG == made.tokens_BG


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_rows_do_not_depend_on_the_batch_composition(case, temperature):
    """In float32 on the CPU. On a GPU in bfloat16 other batch sizes run other kernels, and texts change."""
    module, model, knobs = case
    rows = [[5, 9, 13], [7, 30, 44, 12, 8], [22], [9, 9, 9, 9]]
    together = module.generate(model, batch(*rows), 12, knobs(temperature), seed=5).tokens_BG
    for i, row in enumerate(rows):
        alone = module.generate(model, batch(row, first=i), 12, knobs(temperature), seed=5).tokens_BG
        assert together[i] == alone[0]


def test_seeds_differ_above_temperature_0(case):
    module, model, knobs = case
    made = {module.generate(model, batch([5, 9, 13]), 12, knobs(1.0), seed=s).tokens_BG for s in range(4)}
    assert len(made) > 1


def test_forwards_are_observed_one_by_one(case):
    module, model, knobs = case
    seen: list[int] = []
    made = module.generate(model, batch([5, 9, 13]), 12, knobs(0.0), on_step=seen.append)
    assert seen == list(range(1, made.forwards + 1))


# ---------------------------------------------------------------- against the literal sampler


@st.composite
def configurations(draw):
    block = draw(st.sampled_from([2, 4, 8]))
    blocks = draw(st.integers(1, 3))
    knobs = {
        "block_length": block,
        "commit": draw(st.sampled_from(["low_confidence", "threshold", "factor"])),
        "cache": draw(st.sampled_from(["none", "prefix", "dual"])),
        "steps": blocks * draw(st.integers(1, 2 * block)),
        "threshold": draw(st.sampled_from([0.05, 0.1, 0.2, 0.9])),
        "factor": draw(st.sampled_from([0.5, 1.0, 2.0, 3.0])),
        "factor_quirk": draw(st.booleans()),
        "published_loop": draw(st.booleans()),
        "logits_eos_inf": draw(st.booleans()),
        "confidence_eos_eot_inf": draw(st.booleans()),
        "confidence_dtype": draw(st.sampled_from(["float32", "float64"])),
    }
    if knobs["cache"] == "none":
        knobs["cfg_scale"] = draw(st.sampled_from([0.0, 0.0, 0.7, 2.0]))
    token = st.integers(3, MASK - 1)
    rows = draw(st.lists(st.lists(token, min_size=1, max_size=7), min_size=1, max_size=3))
    return knobs, blocks * block, rows


# A decision by less than this probability is rounding: two correct samplers differ by 1e-6 in float32.
MARGIN = 1e-5
# Found by a search: two positions of the second block are equally confident, 0.175839, to within 3e-8.
TIE = (
    {"block_length": 8, "commit": "low_confidence", "cache": "dual", "steps": 14, "published_loop": False},
    16,
    [[35]],
)


def literal_run(plain, knobs, new_tokens, row, pad=0, reference=None):
    """`reference_sampler.run` under the sampler's own knobs, with `pad` positions of padding before the prompt."""
    return run(
        plain,
        row,
        new_tokens,
        mask=MASK,
        block=knobs["block_length"],
        commit=knobs["commit"],
        steps=knobs.get("steps"),
        threshold=knobs.get("threshold"),
        factor=knobs.get("factor"),
        quirk=knobs.get("factor_quirk"),
        cache=knobs["cache"],
        published_loop=knobs.get("published_loop"),
        cfg=knobs["cfg_scale"],
        eos=EOS,
        forbid_eos=knobs["logits_eos_inf"],
        eos_last=knobs["confidence_eos_eot_inf"],
        confidence_dtype=getattr(torch, knobs["confidence_dtype"]),
        pad=[EOS] * pad,
        reference=reference,
    )


@settings(max_examples=250, deadline=None)
@given(configurations())
def test_tokens_and_forwards_equal_the_literal_sampler(diffusion, plain, configuration):
    given_, new_tokens, rows = configuration
    knobs = settled("masked_diffusion", new_tokens, **given_)
    references = [tuple((7 * i + 3 * j) % 57 + 3 for j in range(new_tokens)) for i in range(len(rows))]
    longest = max(map(len, rows))
    generated, scored = (
        [
            literal_run(plain, knobs, new_tokens, row, longest - len(row), reference)
            for row, reference in zip(rows, of, strict=True)
        ]
        for of in ([None] * len(rows), references)
    )
    assume(min(margin for *_, margin in generated + scored) > MARGIN)
    made = masked_diffusion.generate(diffusion, batch(*rows), new_tokens, knobs)
    likelihood = masked_diffusion.log_likelihood(diffusion, batch(*rows, references=references), knobs)
    for i, (tokens, _, positions, _, _) in enumerate(generated):
        assert list(made.tokens_BG[i]) == tokens
        if len(rows) == 1:
            assert made.positions == positions
    for log_prob_G, (_, _, _, log_p, _) in zip(likelihood.log_prob_BG, scored, strict=True):
        assert sum(log_prob_G) == pytest.approx(log_p, abs=1e-3)
    # Each block of a batch runs until its slowest row is done.
    assert made.forwards == sum(map(max, zip(*(forwards for _, forwards, *_ in generated), strict=True)))


def test_a_tie_within_rounding_is_not_a_decision(diffusion, plain):
    """The case above where float32 may order two positions either way: the work is the same, the texts need not be."""
    given_, new_tokens, rows = TIE
    knobs = settled("masked_diffusion", new_tokens, **given_, confidence_dtype="float32")
    *_, positions, _, margin = literal_run(plain, knobs, new_tokens, rows[0])
    assert margin < 1e-6 < MARGIN
    assert masked_diffusion.generate(diffusion, batch(*rows), new_tokens, knobs).positions == positions


@pytest.mark.parametrize(
    ("decide", "expected"),
    [
        (lambda c: pick(c, 2), ([0, 2], 0.2)),
        (lambda c: pick(c, 4), ([0, 2, 3, 1], float("inf"))),
        (lambda c: threshold_rule(c, 0.55), ([0, 2], 0.05)),
        (lambda c: threshold_rule(c, 0.95), ([0], 0.3)),
        # Limits 1 - 1/3, 1 - 1/4: the second rank fails by 1/15.
        (lambda c: literal_factor_rule(c, 1.0, quirk=True), ([0], 2 / 3 - 0.6)),
    ],
)
def test_margins_of_the_literal_rules(decide, expected):
    positions, margin = decide({0: 0.9, 1: 0.1, 2: 0.6, 3: 0.4})
    assert positions == expected[0]
    assert margin == pytest.approx(expected[1])


# ---------------------------------------------------------------- work, by the closed formulas


@pytest.mark.parametrize(("block", "steps", "rows"), [(12, 6, 1), (4, 6, 2), (4, 24, 3), (6, 2, 1)])
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_counted_work_equals_the_closed_formulas(diffusion, cache, block, steps, rows):
    prompt, new_tokens = 5, 12
    length, blocks = prompt + new_tokens, new_tokens // block
    knobs = settled("masked_diffusion", new_tokens, block_length=block, steps=steps, cache=cache)
    made = masked_diffusion.generate(diffusion, batch(*[[5, 9, 13, 7, 8 + i] for i in range(rows)]), new_tokens, knobs)
    each = steps // blocks if cache == "none" else max(2, min(steps // blocks, block))
    positions = pairs = 0
    for i in range(blocks):
        start = prompt + i * block
        later = {"none": length, "prefix": length - start, "dual": block}[cache]
        positions += length + (each - 1) * later
        pairs += length * (length + (each - 1) * later)
    assert made.forwards == blocks * each
    assert made.positions == rows * positions
    assert made.attention_pairs == rows * pairs


def test_guidance_doubles_the_positions_of_a_forward(diffusion):
    plain_ = masked_diffusion.generate(diffusion, batch([5, 9]), 8, settled("masked_diffusion", 8, steps=4))
    guided = masked_diffusion.generate(
        diffusion, batch([5, 9]), 8, settled("masked_diffusion", 8, steps=4, cfg_scale=1.0)
    )
    assert guided.forwards == plain_.forwards == 4
    assert guided.positions == 2 * plain_.positions == 2 * 4 * 10


def test_rows_that_wait_are_counted_as_waste(diffusion):
    knobs = settled("masked_diffusion", 8, commit="threshold", threshold=0.1)
    rows = [[5, 9], [7, 30], [44, 12]]
    alone = [masked_diffusion.generate(diffusion, batch(r), 8, knobs).forwards for r in rows]
    made = masked_diffusion.generate(diffusion, batch(*rows), 8, knobs)
    assert len(set(alone)) > 1
    assert made.forwards == max(alone)
    assert made.wasted_positions == sum(max(alone) - n for n in alone) * 10


def test_autoregressive_work(causal):
    module = registry.load("samplers", "autoregressive")
    made = module.generate(causal, batch([5, 9, 13], [7, 8, 9]), 6, {"temperature": 0.0})
    assert (made.forwards, made.positions, made.attention_pairs) == (6, 2 * 8, 2 * 8 * 9 // 2)


def test_autoregressive_greedy_is_the_argmax_of_full_forwards(causal):
    module = registry.load("samplers", "autoregressive")
    made = module.generate(causal, batch([5, 9, 13], [7, 8, 9, 11, 4]), 10, {"temperature": 0.0})
    for row, prompt in zip(made.tokens_BG, ([5, 9, 13], [7, 8, 9, 11, 4]), strict=True):
        text = list(prompt)
        for _ in range(10):
            logits = causal.logits(causal.forward(torch.tensor([text])), len(text) - 1, len(text))
            text.append(int(logits[0, 0].argmax()))
        assert list(row) == text[len(prompt) :]


# ---------------------------------------------------------------- vectors and laws


@pytest.mark.parametrize(
    ("masks", "steps", "expected"),
    [(10, 4, [3, 3, 2, 2]), (128, 48, [3] * 32 + [2] * 16), (32, 64, [1] * 32 + [0] * 32), (5, 1, [5])],
)
def test_schedules(masks, steps, expected):
    assert quotas(masks, steps) == expected == schedule(masks, steps)


@pytest.mark.parametrize(
    ("confidence", "factor", "quirk", "committed"),
    [
        ((0.99, 0.98, 0.97, 0.5), 1.0, True, 4),
        ((0.6, 0.5), 1.0, True, 2),
        ((0.99,), 1.0, True, 1),
        ((0.5, 0.4, 0.3), 1.0, True, 1),
        ((0.5, 0.4, 0.3), 2.0, True, 3),
        ((0.99, 0.98, 0.97, 0.5), 1.0, False, 3),
        ((0.6, 0.5), 1.0, False, 1),
    ],
)
def test_factor_vectors(confidence, factor, quirk, committed):
    n = len(confidence)
    probabilities = torch.tensor(confidence, dtype=torch.float64)
    scores = BlockScores(probabilities[None], torch.ones(1, n, dtype=torch.bool))
    knobs = {"factor": factor, "factor_quirk": quirk, "confidence_dtype": "float64"}
    assert int(factor_rule.decide(scores, knobs).sum()) == committed


@pytest.mark.parametrize("knobs", [{"steps": 1}, {"steps": 2}, {"steps": 3}, {"commit": "threshold", "threshold": 0.1}])
def test_sampler_likelihoods_of_all_answers_sum_to_one(diffusion, knobs):
    """Three answer positions and four tokens: 64 answers, whose probabilities are one distribution."""
    four = _FourTokens(diffusion)
    answers = [tuple(a) for a in itertools.product(range(4), repeat=3)]
    prompts = batch(*[[5, 9]] * 64, references=answers)
    total = 0.0
    for i in range(64):
        alone = PromptBatch((prompts.prompts[i],), "")
        found = masked_diffusion.log_likelihood(four, alone, settled("masked_diffusion", 3, **knobs))
        total += torch.tensor(found.log_prob_BG).sum().exp().item()
    assert total == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("length", "rows", "first", "counts"),
    [
        (10, 4, 3, [3, 6, 8, 10]),
        (7, 4, 6, [6, 1, 3, 4]),
        (16, 16, 5, [*range(5, 17), *range(1, 5)]),
    ],
)
def test_elbo_counts(length, rows, first, counts):
    assert elbo.masked_counts(length, rows, first) == counts


def _texts(model, reference, rows=16):
    spec = ModelSpec("m", "llada", "x", "target")
    cell = Cell(spec, "hf", "masked_diffusion", (), 1, 2, len(reference), "float32", "math", 0, "test")
    return Texts(cell, (Prompt(0, (5, 9), reference_ids=reference),), model=model, rows=rows)


def test_elbo_of_one_token_is_its_likelihood(diffusion):
    texts = _texts(diffusion, (17,))
    exact = masked_diffusion.log_likelihood(
        diffusion, PromptBatch(texts.prompts, ""), settled("masked_diffusion", 1, steps=1)
    )
    assert elbo.estimate(texts, texts.prompts[0]).nats == pytest.approx(-exact.log_prob_BG[0][0], abs=1e-5)


def test_elbo_is_the_mean_over_random_orders(diffusion):
    texts = _texts(diffusion, (17, 30, 8, 41), rows=4)
    knobs = settled("masked_diffusion", 4, commit="random", steps=4)
    orders = [
        -sum(masked_diffusion.log_likelihood(diffusion, PromptBatch(texts.prompts, ""), knobs, seed).log_prob_BG[0])
        for seed in range(200)
    ]
    mean, error = statistics.fmean(orders), statistics.stdev(orders) / 200**0.5
    assert elbo.estimate(texts, texts.prompts[0], draws=2000).nats == pytest.approx(mean, abs=5 * error + 0.05)


class _FourTokens:
    """The random model with all but four tokens and the mask shut off."""

    def __init__(self, model):
        self._model, self.architecture, self.device = model, model.architecture, model.device
        self.forward, self.new_cache = model.forward, model.new_cache
        self.graph_runner, self.maybe_compile = model.graph_runner, model.maybe_compile

    def logits_chunks(self, hidden, first, last):
        for logits in self._model.logits_chunks(hidden, first, last):
            yield self.changed(logits.clone())

    def changed(self, logits):
        logits[..., 4:MASK] = -torch.inf
        return logits


def test_draws_follow_the_softmax(diffusion):
    """One masked position at temperature 0.7: 4000 prompts draw 4000 tokens from softmax(logits / T)."""
    logits_V = torch.tensor([1.0, 0.2, -0.5, 2.0, 0.0])
    drawn = choose_tokens(
        logits_V.expand(4000, 1, 5), 0.7, 1, prompt_index_B=torch.arange(4000), step=0, positions_w=torch.tensor([0])
    )
    counts = torch.bincount(drawn[:, 0], minlength=5).double()
    expected = (logits_V.double() / 0.7).softmax(-1) * 4000
    assert float(((counts - expected) ** 2 / expected).sum()) < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


# ---------------------------------------------------------------- plug-ins with nothing optional


def test_a_cache_and_a_commit_rule_need_only_the_required_attributes(diffusion, monkeypatch):
    """No `min_forwards`, no `check`, no knobs, not even `steps`: one token a step, as the dual cache would."""

    @dataclass(frozen=True)
    class NoKnobs:
        pass

    dual, low_confidence = registry.load("cache", "dual"), registry.load("commit", "low_confidence")
    cache = SimpleNamespace(KNOBS=NoKnobs, USES_KV_CACHE=True, span=dual.span)
    rule = SimpleNamespace(
        KNOBS=NoKnobs, SCHEDULED=True, confidence=low_confidence.confidence, decide=low_confidence.decide
    )
    load = registry.load
    parts = {("cache", "dual"): cache, ("commit", "low_confidence"): rule}
    expected = masked_diffusion.generate(
        diffusion, batch([5, 9]), 8, settled("masked_diffusion", 8, cache="dual", published_loop=False)
    )
    monkeypatch.setattr(registry, "load", lambda kind, name: parts.get((kind, name)) or load(kind, name))
    knobs = settled("masked_diffusion", 8, cache="dual")
    assert {"published_loop", "steps"}.isdisjoint(knobs)
    assert masked_diffusion.generate(diffusion, batch([5, 9]), 8, knobs) == expected


def test_the_precision_of_confidences_follows_attributes(monkeypatch):
    def dtype(engine="hf", **given_):
        knobs = {k.name: k.default for k in registry.knobs_of("masked_diffusion", given_).values()} | given_
        return masked_diffusion.resolve(knobs, engine, 8)["confidence_dtype"]

    assert dtype() == "model"
    assert dtype(cache="prefix") == dtype(commit="threshold") == "float64"
    assert {dtype(engine, cache="dual") for engine in ("native", "native_plain")} == {"float32"}
    assert dtype("native", confidence_dtype="float64") == "float64"
    load, served = registry.load, SimpleNamespace()
    monkeypatch.setattr(registry, "load", lambda kind, name: served if kind == "engines" else load(kind, name))
    assert dtype("served") == "model"


# ---------------------------------------------------------------- refusals


def test_prompts_that_cannot_be_run_are_refused(diffusion):
    knobs = settled("masked_diffusion", 8)
    for row, message in (([5, 61], "outside the vocabulary"), ([MASK], "mask id"), ([], "empty"), ([-1], "outside")):
        with pytest.raises(BenchError, match=f"prompt 1 .*{message}"):
            masked_diffusion.generate(diffusion, batch(row), 8, knobs)


def test_a_causal_model_cannot_be_diffused(causal):
    with pytest.raises(BenchError, match="no mask token"):
        masked_diffusion.generate(causal, batch([5]), 8, settled("masked_diffusion", 8))


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        ({"block_length": 5}, "does not divide"),
        ({"block_length": 0}, "block_length (0) must be at least 1"),
        ({"steps": 0}, "steps (0) must be at least 1"),
        ({"steps": -8}, "steps (-8) must be at least 1"),
        ({"block_length": 4, "steps": 7}, "steps (7) is not a multiple of the number of blocks (3)"),
        ({"cfg_scale": 1.0, "cache": "dual"}, "cfg_scale needs cache none"),
        ({"confidence_dtype": "int8"}, "confidence_dtype"),
        ({"temperature": -1.0}, "temperature must be 0 or more"),
        ({"cfg_scale": float("nan")}, "cfg_scale must be 0 or more"),
        ({"temperature": float("inf")}, "temperature must be 0 or more, and finite"),
        ({"commit": "factor", "factor": -1.0}, "factor must be 0 or more"),
        ({"commit": "factor", "factor": float("inf")}, "factor must be 0 or more, and finite"),
        *(({"commit": "threshold", "threshold": t}, "threshold must be more than 0") for t in (-3.0, 0.0, 5.0)),
    ],
)
def test_impossible_knobs_have_a_reason(given_, text):
    knobs = {k.name: k.default for k in registry.knobs_of("masked_diffusion", given_).values()} | given_
    assert text in masked_diffusion.check(knobs, 12)


def test_bounds_belong_to_the_possible_values():
    for given_ in ({"commit": "threshold", "threshold": 1.0}, {"block_length": None}, {"block_length": 1, "steps": 12}):
        settled("masked_diffusion", 12, **given_)
    assert autoregressive.check({"temperature": 0.0}, 12) is None
    assert autoregressive.check({"temperature": float("inf")}, 12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_logits_are_invalid_not_text(diffusion, causal, value):
    class Broken(_FourTokens):
        def changed(self, logits):
            return logits.fill_(value)

    with pytest.raises(InvalidLogitsError):
        masked_diffusion.generate(Broken(diffusion), batch([5]), 8, settled("masked_diffusion", 8))
