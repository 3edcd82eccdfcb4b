"""What a 95% interval claims, counted: over 2,000 invented studies each, it must hold the truth in 93 to 97% of them.

Every study is drawn afresh from a source whose truth is known and goes through the code that a run goes through. Sizes
are those of the protocol: 15 repetitions (a pilot of 5 and 10 more), 12 prompts (the demo), 32 (the default), 128.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dlmbench.analysis.break_even import break_even
from dlmbench.analysis.parity import PerText, Repetitions, speedup_at_parity, steps_to_parity
from dlmbench.analysis.stats import bootstrap_indices, ratio_interval, summarise
from dlmbench.measure.protocol import further_repetitions
from dlmbench.types import ProtocolSettings

pytestmark = pytest.mark.e2e
STUDIES = 2000
DRAWS = 600
REPETITIONS = 15
Draw = Callable[[np.random.Generator, int], np.ndarray]


def normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(0, 1, n)


def skewed(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.gamma(2.0, 1.0, n) - 1.6783469900166612  # its median


def disturbed(rng: np.random.Generator, n: int) -> np.ndarray:
    """One repetition in twenty meets other work on the machine."""
    return np.where(rng.random(n) < 0.05, 10.0, 0.0) + rng.normal(0, 1, n) - 0.0660118123768  # its median


NOISES: dict[str, Draw] = {"normal": normal, "skewed": skewed, "disturbed": disturbed}
every_noise = pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES.keys())


def check(found: list[bool]) -> None:
    assert len(found) == STUDIES
    held = float(np.mean(found))
    print(f"held the truth in {held:.2%}")
    assert 0.93 <= held <= 0.97


@every_noise
def test_medians_at_the_fewest_repetitions_and_at_the_number_that_a_pilot_asks_for(noise):
    rng = np.random.default_rng(1)
    fewest, asked = [], []
    for _ in range(STUDIES):
        times = 1 + 0.02 * noise(rng, 15)
        found = summarise(times)
        fewest.append(found.low <= 1 <= found.high)
        more = further_repetitions(list(times[:5]), ProtocolSettings())
        found = summarise(np.concatenate([times[:5], 1 + 0.02 * noise(rng, more)]))
        asked.append(found.low <= 1 <= found.high)
    check(fewest)
    check(asked)


@every_noise
@pytest.mark.parametrize("share", [1.0, 0.2], ids=["alike", "one_is_steadier"])
def test_speedup_of_one_cell(noise, share):
    rng = np.random.default_rng(2)
    found = []
    for i in range(STUDIES):
        a, b = 3 * (1 + 0.03 * noise(rng, REPETITIONS)), 2 * (1 + 0.03 * share * noise(rng, REPETITIONS))
        ratio = ratio_interval(a, b, DRAWS, seed=i)
        found.append(ratio.low <= 1.5 <= ratio.high)
    check(found)


def nats(rng: np.random.Generator, n: int, level: float) -> PerText:
    """64 tokens a text; texts vary, some are much harder than others."""
    return PerText(tuple(range(n)), 64 * (level + rng.gamma(4.0, 0.025, n) - 0.1), np.full(n, 64.0))


def validity(rng: np.random.Generator, ease: np.ndarray, level: float) -> PerText:
    """4 to 9 sentences a text, each valid with the text's own probability."""
    sentences = rng.integers(4, 10, len(ease))
    return PerText(tuple(range(len(ease))), rng.binomial(sentences, level * ease) * 1.0, sentences * 1.0)


@pytest.mark.parametrize(("kind", "n"), [("nats", 12), ("nats", 32), ("nats", 128), ("validity", 12), ("validity", 32)])
def test_paired_quality_difference(kind, n):
    rng = np.random.default_rng(3)
    indices = bootstrap_indices(n, DRAWS, seed=0)
    found = []
    for _ in range(STUDIES):
        if kind == "nats":
            hardness = 64 * rng.gamma(4.0, 0.1, n)
            pair = [
                PerText(t.prompt_indices, t.totals + hardness, t.weights) for t in (nats(rng, n, 1.1), nats(rng, n, 1))
            ]
            truth = -0.1
        else:
            ease = rng.beta(8, 2, n)
            pair, truth = [validity(rng, ease, 0.9), validity(rng, ease, 1.0)], (0.9 - 1) * 0.8
        test = steps_to_parity(
            {8: pair[0]}, pair[1], delta=0, log_scale=True, higher_is_better=kind == "validity", indices=indices
        )
        gap = test.points[0].gap
        found.append(gap.low <= truth <= gap.high)
    check(found)


@pytest.mark.parametrize("doubt", [0.0, 3.0], ids=["parity_is_clear", "parity_lies_at_16_or_32"])
def test_speedup_at_parity(doubt):
    """The gap at K = 16 is far above 0, or anywhere within `doubt` standard errors of it: parity is at 16 or at 32."""
    rng, n = np.random.default_rng(4), 32
    indices = bootstrap_indices(n, DRAWS, seed=0)
    error = 0.05 * np.sqrt(2 / n)  # of a difference of two means of n texts
    found, reached = [], 0
    while len(found) < STUDIES:
        gap = rng.uniform(-doubt, doubt) * error if doubt else 0.2
        levels = {8: 1.5, 16: 1 - gap, 32: 0.7, 64: 0.7}
        curve = {k: nats(rng, n, level) for k, level in levels.items()}
        parity = steps_to_parity(
            curve, nats(rng, n, 1.0), delta=0, log_scale=True, higher_is_better=False, indices=indices
        )
        times = {}
        for k in levels:
            seconds = (0.02 + 0.01 * k) * (1 + 0.02 * skewed(rng, REPETITIONS))
            times[k] = Repetitions(seconds, 64 / seconds)
        seconds = 0.3 * (1 + 0.02 * skewed(rng, REPETITIONS))
        speedup = speedup_at_parity(parity, times, Repetitions(seconds, 64 / seconds), DRAWS, seed=len(found))
        assert speedup is not None
        assert speedup.latency is not None
        truth = 0.3 / (0.02 + 0.01 * (16 if gap >= 0 else 32))
        found.append(speedup.latency.low <= truth <= speedup.latency.high)
        reached += parity.steps == 16
    check(found)
    assert 0 < reached <= STUDIES


@pytest.mark.parametrize(
    ("noise", "base_noise"), [(normal, 0.02), (skewed, 0.02), (disturbed, 0.02), (normal, 0.2), (skewed, 0.2)]
)
def test_break_even(noise, base_noise):
    rng = np.random.default_rng(5)
    found = []
    for i in range(STUDIES):
        times = {k: (0.02 + 0.01 * k) * (1 + 0.02 * noise(rng, REPETITIONS)) for k in (8, 16, 32, 64)}
        base = 0.2 * (1 + base_noise * noise(rng, REPETITIONS))
        line = break_even(times, base, DRAWS, seed=i)
        assert line is not None
        assert line.low is not None
        assert line.high is not None
        found.append(line.low <= 18 <= line.high)
    check(found)
