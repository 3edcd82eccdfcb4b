"""The table of benchmarks/study.py."""

import sys
from dataclasses import replace

from support.examples import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import study

ANSWER = study.Answer(
    *("base", "gsm8k", "low_confidence", "a paper", 50.0, "another paper", 0.0, "reached", 64, 64),
    *(1, 64, 1.0, 1.0, 1.0, "predicted"),
)


def test_curves_of_two_papers_are_two_lines():
    rows = [replace(ANSWER, quality_source=s, batch_size=b) for s in ("a paper", "a third") for b in (1, 8, 32)]
    assert study.page_table(rows).count("GSM8K") == 2
