"""MAUVE: how close the generated texts as a whole are to the true ones, between 0 and 1 (needs many texts).

Pillutla et al. 2021 (arXiv 2102.01454), by their package mauve-text (GPLv3, an optional extra). The features are the
judge's last hidden state at the last token of prompt and text; use a judge that is no model of the run. There is one
value for all texts of a cell and no interval: resampling the texts moves the clusters too, and makes small samples
look further apart than they are. The authors advise thousands of texts; with tens of them the value is a rough sign.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from dlmbench.errors import BenchError
from dlmbench.scoring.judge import JudgeSettings, judge_of, prepare_judge
from dlmbench.scoring.texts import generated_texts, without_reference
from dlmbench.types import MetricRequest, Texts, Unscored, WholeScore

UNIT = "MAUVE"
HIGHER_IS_BETTER = True
ROLE = "quality"
MARGIN = 0.02
NEEDS = ("generations", "references", "own model")
TITLE = "MAUVE"
REPORT_IF_MISSING = True
ADVISED = 1000


@dataclass(frozen=True)
class MauveSettings(JudgeSettings):
    """Settings (experiment file, --judge or --setting)."""

    fewest: int = field(default=100, metadata={"help": "minimum number of texts"})


SETTINGS = MauveSettings


def check(settings: MauveSettings) -> str | None:
    """Why these settings cannot be used, or None."""
    return None if settings.fewest >= 4 else "mauve.fewest must be 4 or more: there are two clusters at least"


def prepare(settings: MauveSettings) -> MetricRequest:
    """Find the package and the judge; raises BenchError where one is missing."""
    if importlib.util.find_spec("mauve") is None:
        raise BenchError("mauve needs the package mauve-text", "pip install 'dlmbench[quality]'")
    found = prepare_judge("mauve", settings)
    return replace(found, settings=(*found.settings, ("fewest", settings.fewest)))


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Silence the clustering library's warning about few points; the remark covers it."""
    stderr_copy, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(stderr_copy, 2)
        os.close(stderr_copy)
        os.close(devnull)


def score(texts: Texts) -> Iterator[WholeScore | Unscored]:
    """One value for all texts; texts without features are recorded as unscored."""
    import numpy as np

    cell, judge = texts.cell, judge_of(texts)
    true_ND, generated_ND = [], []
    for item in generated_texts(texts, "mauve"):
        if isinstance(item, Unscored):
            yield item
            continue
        prompt, _, text = item
        if not prompt.reference_text:
            yield without_reference(cell, "mauve", prompt)
            continue
        try:
            features = [judge.features(prompt.text or "", t) for t in (prompt.reference_text, text)]
        except BenchError as error:
            yield Unscored(cell.id, "mauve", prompt.index, error.message)
            continue
        true_ND.append(features[0])
        generated_ND.append(features[1])
    assert texts.request is not None
    fewest = int(texts.request.setting("fewest") or 0)
    if len(generated_ND) < fewest:
        reason = f"{len(generated_ND)} texts are too few: no meaningful value (mauve.fewest is {fewest})"
        yield Unscored(cell.id, "mauve", None, reason)
        return
    from mauve import compute_mauve

    with _quiet_stderr():
        result = compute_mauve(p_features=np.array(generated_ND), q_features=np.array(true_ND))
    remark = f"{result.num_buckets} clusters; no interval"
    if len(generated_ND) < ADVISED:
        remark += f"; rough: the authors advise {ADVISED} texts or more"
    yield WholeScore(cell.id, "mauve", float(result.mauve), len(generated_ND), remark=remark)
