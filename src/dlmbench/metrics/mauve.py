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
NEEDS = ("generations", "references", "own model")
TITLE = "MAUVE"
REPORT_IF_MISSING = True
ADVISED = 1000


@dataclass(frozen=True)
class MauveSettings(JudgeSettings):
    """What can be set in the experiment file, by --judge or by --setting."""

    fewest: int = field(default=100, metadata={"help": "texts below which no value is given: ten make one cluster"})


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
    """Keep the clustering library from printing to stderr that the points are few: the remark says so."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def score(texts: Texts) -> Iterator[WholeScore | Unscored]:
    """One value for all texts; texts without features are recorded as unscored."""
    import numpy as np

    cell, judge = texts.cell, judge_of(texts)
    true_ND, made_ND = [], []
    for found in generated_texts(texts, "mauve"):
        if isinstance(found, Unscored):
            yield found
            continue
        prompt, _, text = found
        if not prompt.reference_text:
            yield without_reference(cell, "mauve", prompt)
            continue
        features = [judge.features(prompt.text or "", t) for t in (prompt.reference_text, text)]
        if reason := next((reason for _, reason in features if reason), ""):
            yield Unscored(cell.id, "mauve", prompt.index, reason)
            continue
        true_ND.append(features[0][0])
        made_ND.append(features[1][0])
    assert texts.request is not None
    fewest = int(texts.request.setting("fewest") or 0)
    if len(made_ND) < fewest:
        reason = f"{len(made_ND)} texts are too few: the value would say nothing (mauve.fewest is {fewest})"
        yield Unscored(cell.id, "mauve", None, reason)
        return
    from mauve import compute_mauve

    with _quiet_stderr():
        result = compute_mauve(p_features=np.array(made_ND), q_features=np.array(true_ND))
    remark = f"{result.num_buckets} clusters; no interval"
    if len(made_ND) < ADVISED:
        remark += f"; rough: the authors advise {ADVISED} texts or more"
    yield WholeScore(cell.id, "mauve", float(result.mauve), len(made_ND), remark=remark)
