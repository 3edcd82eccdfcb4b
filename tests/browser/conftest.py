"""The browser that the tests drive, and the pages they open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dlmbench.analysis.study import analyse
from dlmbench.report import page
from dlmbench.report.source import Source
from dlmbench.types import CommitOrder, Run
from support.hostile_run import hostile_run
from support.synthetic_run import baseline_cell, measured, target_cell, tiny_run

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser_type_launch_args():
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    return {"executable_path": str(CHROMIUM), "args": ARGUMENTS}


@pytest.fixture(scope="session")
def ordinary(tmp_path_factory) -> Path:
    """A report with every figure drawn that the invented run has data for, 8 cells."""
    run = tiny_run(batches=(1, 8), blocks=(None,), steps=(4, 16, 64), repetitions=8)
    last = run.results[-1]
    order = CommitOrder(last.cell.id, 0, 4, tuple(1 + i // 16 for i in range(64)), (0.5,) * 64)
    run = replace(run, results=(*run.results[:-1], replace(last, order=order)))
    return page.write(Source(run, analyse(run, draws=100)), tmp_path_factory.mktemp("ordinary"))


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Path:
    """A report of a run full of attacks."""
    folder = tmp_path_factory.mktemp("hostile")
    run = hostile_run(folder)
    return page.write(Source(run, analyse(run, draws=20)), folder)


@pytest.fixture(scope="session")
def many_panels(tmp_path_factory) -> Path:
    """A report whose figures have more panels than are shown first."""
    results = []
    for b in (1, 2, 4, 8, 16, 32):
        results.append(measured(baseline_cell(b), [0.1 * b] * 5))
        # Batch 2, which is not among the panels shown first, has a setting that no other has.
        blocks = (None, 16) if b == 2 else (None,)
        results += [measured(target_cell(k, block, b), [0.004 * k * b] * 5) for block in blocks for k in (4, 16, 64)]
    cells = tuple(r.cell for r in results)
    run = Run("run", "many", tiny_run(batches=(1,), blocks=()).environment, cells, (), tuple(results))
    return page.write(Source(run, analyse(run, draws=10)), tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="session")
def large(tmp_path_factory) -> Path:
    """A report of 5,000 cells: speed only, so that its analysis takes seconds and not minutes."""
    batches, blocks, steps = (1, 2, 4, 8, 16), (None, *range(2, 21)), (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    lengths = ((64, 64), (448, 64), (960, 64), (1984, 64), (64, 512))
    results = []
    for prompt, new in lengths:
        for b in batches:
            results.append(measured(baseline_cell(b, prompt, new), [0.1 * b] * 3))
            for block in blocks:
                for k in steps:
                    cell = target_cell(k, block, b, prompt, new)
                    results.append(measured(cell, [0.001 * k * b, 0.0011 * k * b, 0.0012 * k * b]))
    cells = tuple(r.cell for r in results)
    run = Run("run", "large", tiny_run(batches=(1,), blocks=()).environment, cells, (), tuple(results))
    return page.write(Source(run, analyse(run, draws=10)), tmp_path_factory.mktemp("large"))
