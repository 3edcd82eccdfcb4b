"""The simulation campaign: it runs, and its page is what its figures say."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reliability.md"
BEGIN, END = "<!-- simulate:begin -->", "<!-- simulate:end -->"


def simulate(*options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.simulate", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_tiny_campaign_runs_every_scenario(tmp_path):
    (tmp_path / "reliability.md").write_text(f"# Before\n{BEGIN}\nold\n{END}\nafter\n")
    done = simulate("--trials", "2", "--docs", tmp_path)
    made, kept = (rows(d / "reliability/simulation.csv") for d in (tmp_path, ROOT / "docs"))
    assert [(r["rule"], r["scenario"]) for r in made] == [(r["rule"], r["scenario"]) for r in kept]
    page = (tmp_path / "reliability.md").read_text()
    assert page.startswith("# Before\n")
    assert page.endswith("after\n")
    assert "\nold\n" not in page
    # Two trials keep few bounds, and what is missed without a documented limit is listed.
    missed = [line for line in done.stderr.splitlines() if line.startswith("not kept: ")]
    assert done.returncode == (1 if missed else 0), done.stderr
    assert f"{len(kept)} scenarios, {len(missed)} bounds not kept" in done.stderr


def test_the_page_shows_the_figures_of_the_csv():
    made = simulate("--page")
    assert made.returncode == 0, made.stderr
    shown = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert shown.strip() == made.stdout.strip()


def test_the_committed_figures_rest_on_enough_trials():
    """A thousand; 300 for power, and fewer where some trials do not apply."""
    for row in rows(ROOT / "docs/reliability/simulation.csv"):
        least = {"false verdicts": 1000, "coverage": 900, "found": 300}[row["quantity"]]
        assert int(row["trials"]) >= (300 if row["most"] == "0" else least), row


def test_what_is_not_reached_has_a_reason():
    marked = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if "**not reached here**" in line]
    assert marked
    assert all("**not reached here**: " in line for line in marked)
