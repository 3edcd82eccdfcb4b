"""Two runs side by side: known ratios, what is refused, what is marked, and names that would be markup."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from dlmbench.analysis.compare import compare
from dlmbench.results import RECORDS
from dlmbench.results.records import KIND_OF, cell_record
from dlmbench.types import Cell, CellResult, ModelSpec, Run
from support.program import run
from support.synthetic_run import ENVIRONMENT, LLADA, failed, measured, noisy, per_text, target_cell, tiny_run

STUDY = Path(__file__).parents[2] / "docs/study/h200-random"
RUN = tiny_run(batches=(1, 4), blocks=(None,), steps=(8, 16), prompts=40)


def scaled(run: Run, factor: float, only: str | None = None) -> Run:
    """`run` with latencies multiplied by `factor` (of one cell, where it is named)."""

    def slower(result):
        if only is not None and result.cell.id != only:
            return result
        return replace(
            result, samples=tuple(replace(s, latency_s=s.latency_s * factor) for s in result.samples if not s.is_warmup)
        )

    return replace(run, results=tuple(map(slower, run.results)))


def with_cells(run: Run, **changes: object) -> Run:
    """`run` with `changes` in every cell."""
    return _with(run, {c.id: replace(c, **changes) for c in run.cells})


def with_models(run: Run, change: Callable[[ModelSpec], ModelSpec]) -> Run:
    """`run` with every model changed."""
    return _with(run, {c.id: replace(c, model=change(c.model)) for c in run.cells})


def _with(run: Run, ids: dict[str, Cell]) -> Run:
    return replace(
        run,
        cells=tuple(ids.values()),
        results=tuple(_renamed(r, ids[r.cell.id]) for r in run.results),
        text_scores=tuple(replace(t, cell_id=ids[t.cell_id].id) for t in run.text_scores),
    )


def _renamed(result: CellResult, of: Cell) -> CellResult:
    samples = tuple(replace(s, cell_id=of.id) for s in result.samples)
    passes = {n: replace(getattr(result, n), cell_id=of.id) for n in ("memory", "traced")}
    return replace(result, cell=of, samples=samples, **passes)


def test_a_run_shows_no_difference_from_itself():
    found = compare(RUN, RUN)
    assert found.comparable
    assert len(found.pairs) == 6
    assert found.count("no difference shown") == 6
    assert {p.speedup.value for p in found.pairs} == {1.0}
    assert {c.verdict for p in found.pairs for c in p.quality} == {"equal"}
    assert found.obstacles == found.circumstances == found.only_first == found.only_second == ()


def test_runs_of_one_checkpoint_in_two_folders_are_joined():
    known = with_models(RUN, lambda m: replace(m, content="c0ffee"))
    moved = with_models(known, lambda m: replace(m, key=f"my-{m.key}", source="/elsewhere", revision="main"))
    found = compare(known, moved)
    assert found.comparable
    assert len(found.pairs) == len(RUN.cells)
    assert {c.verdict for p in found.pairs for c in p.quality} == {"equal"}
    swapped = with_models(known, lambda m: replace(m, role="target" if m.role == "baseline" else "baseline"))
    assert len(compare(known, swapped).pairs) == len(RUN.cells)


def test_other_weights_in_the_same_folder_are_another_model():
    first, second = (with_models(RUN, lambda m, c=c: replace(m, content=c)) for c in ("c0ffee", "decade"))
    found = compare(first, second)
    assert not found.comparable
    (obstacle,) = found.obstacles
    assert obstacle.name == "model"
    assert "tiny (c0ffee)" in obstacle.first
    assert "tiny (decade)" in obstacle.second


@pytest.mark.parametrize(("factor", "verdict"), [(0.5, "faster"), (2.0, "slower"), (1.0, "no difference shown")])
def test_known_ratios(factor, verdict):
    one = target_cell(8).id
    found = compare(RUN, scaled(RUN, factor, only=one))
    by_cell = {p.first.id: p for p in found.pairs}
    assert by_cell[one].speedup.value == pytest.approx(1 / factor)
    assert by_cell[one].verdict == verdict
    assert by_cell[one].speedup.low < 1 / factor < by_cell[one].speedup.high
    assert {p.verdict for i, p in by_cell.items() if i != one} == {"no difference shown"}


def two_runs(rng: np.random.Generator, between: float, processes: int, cells: list[Cell], slower: float = 1.0):
    """The same cells twice; every process has an effect of its own on all cells that it runs."""

    def one(factor: float) -> Run:
        effects = np.exp(rng.normal(0, between, processes))
        results = tuple(
            measured(
                c,
                [0.1 * factor * effects[i % processes] * t for i, t in enumerate(noisy(1, 15, rng, 0.001))],
                None,
                processes,
            )
            for c in cells
        )
        return Run("r", "r", ENVIRONMENT, tuple(cells), (), results)

    return one(1.0), one(slower)


@pytest.mark.parametrize("processes", [1, 3, 5])
def test_processes_that_differ_are_not_called_a_difference(processes):
    """Two runs of the same code, whose processes differ by 1% where repetitions spread by 0.1%."""
    rng = np.random.default_rng(3)
    cells = [target_cell(k) for k in (4, 8, 16)]
    called = [compare(*two_runs(rng, 0.01, processes, cells)).count("no difference shown") < 3 for _ in range(100)]
    assert sum(called) <= 11  # 5% are allowed; 12 of 100 would be a chance of one in two hundred


def test_a_slowdown_is_found_with_five_processes():
    rng = np.random.default_rng(4)
    cells = [target_cell(k) for k in (4, 8, 16)]
    found = [compare(*two_runs(rng, 0.005, 5, cells, slower=1.03)).count("slower") for _ in range(40)]
    assert np.mean(found) / 3 > 0.9


def test_a_single_process_must_exceed_the_noise_floor():
    of = target_cell(8)
    runs = [
        Run("r", "r", ENVIRONMENT, (of,), (), (measured(of, noisy(t, 15, np.random.default_rng(1))),))
        for t in (1.0, 1.08, 1.2)
    ]
    (near,) = compare(runs[0], runs[1]).pairs
    assert near.speedup.high < 1
    assert near.verdict == "no difference shown"
    assert "differences under 10.0% cannot be shown" in near.reason
    assert compare(runs[0], runs[2]).pairs[0].verdict == "slower"


@pytest.mark.parametrize(("repetitions", "processes"), [(5, 1), (8, 4)])
def test_too_few_repetitions_decide_nothing(repetitions, processes):
    of = target_cell(8)
    runs = [
        Run(
            "r",
            "r",
            ENVIRONMENT,
            (of,),
            (),
            (measured(of, [t * (1 + i / 100) for i in range(repetitions)], None, processes),),
        )
        for t in (1.0, 9.0)
    ]
    (pair,) = compare(*runs).pairs
    assert pair.speedup.value == pytest.approx(1 / 9, rel=0.05)
    assert pair.verdict == "too few repetitions"
    assert "3 processes with at least 3 repetitions each, or 6 repetitions in one process" in pair.reason


def test_other_work_on_the_device_forbids_a_verdict():
    of = target_cell(8)
    runs = [Run("r", "r", ENVIRONMENT, (of,), (), (measured(of, [t] * 12, None, 3),)) for t in (1.0, 2.0)]
    assert compare(*runs).pairs[0].verdict == "slower"
    met = tuple(replace(s, other_processes=1 if s.index in (1, 2) else 0) for s in runs[1].results[0].samples)
    disturbed = replace(runs[1], results=(replace(runs[1].results[0], samples=met),))
    assert compare(runs[0], disturbed).pairs[0].verdict == "disturbed"


def test_scores_that_are_equal_do_not_loosen_the_test_of_others():
    """Benjamini and Hochberg over scores that changed: many equal ones must not count as discoveries."""
    called = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        cells = [target_cell(k) for k in range(1, 13)]
        values = {c.id: rng.normal(1.0, 0.3, 40) for c in cells}
        first = [
            s
            for c in cells
            for m in ("likelihood", "oracle_validity", "repetition", "distinct_2")
            for s in per_text(c, m, values[c.id])
        ]
        second = [s for c in cells for s in per_text(c, "likelihood", values[c.id] + rng.normal(0, 0.1, 40))]
        second += [s for s in first if s.metric != "likelihood"]
        runs = [
            Run("r", "r", ENVIRONMENT, tuple(cells), (), tuple(measured(c, [1.0] * 6) for c in cells), tuple(t))
            for t in (first, second)
        ]
        called += any(c.verdict in ("better", "worse") for p in compare(*runs).pairs for c in p.quality)
    assert called <= 6  # 5% are allowed; 7 of 40 would be a chance of one in two hundred


def test_failed_and_missing_cells_are_counted_not_lost():
    lost, absent = target_cell(8).id, target_cell(16).id
    other = replace(
        RUN,
        cells=tuple(c for c in RUN.cells if c.id != absent),
        results=tuple(failed(r.cell) if r.cell.id == lost else r for r in RUN.results if r.cell.id != absent),
    )
    found = compare(RUN, other)
    assert [c.id for c in found.only_first] == [absent]
    assert found.only_second == ()
    pair = next(p for p in found.pairs if p.first.id == lost)
    assert (pair.verdict, pair.speedup, pair.memory) == ("not timed", None, None)
    assert "second: oom needs 90 GiB" in pair.reason


def test_memory_and_quality_changes():
    rng = np.random.default_rng(0)
    of, values = target_cell(8), rng.normal(1.0, 0.3, 50)
    first = Run("a", "a", ENVIRONMENT, (of,), (), (measured(of, [1.0] * 9, 100 << 20),))
    second = replace(first, results=(measured(of, [1.0] * 9, 150 << 20),))
    scores = {
        "likelihood": (values, values - 0.05 + rng.normal(0, 0.01, 50)),  # lower is better: the second is better
        "oracle_validity": (values, values - 0.05 + rng.normal(0, 0.01, 50)),  # higher is better
        "oracle_log_prob": (values, values - 0.05),  # equal differences of 50 texts are too few
        "repetition": (values, values + rng.normal(0, 0.3, 50)),
        "oracle_truth": (values, values + 1),  # of no model
    }
    first, second = (
        replace(run, text_scores=tuple(t for m, v in scores.items() for t in per_text(of, m, v[i])))
        for i, run in enumerate((first, second))
    )
    (pair,) = compare(first, second).pairs
    assert (pair.memory.first_bytes, pair.memory.second_bytes) == (100 << 20, 150 << 20)
    assert pair.memory.source.startswith("resident")
    changes = {c.metric.name: c for c in pair.quality}
    assert {n: c.verdict for n, c in changes.items()} == {
        "likelihood": "better",
        "oracle_validity": "worse",
        "oracle_log_prob": "no difference shown",
        "repetition": "no difference shown",
    }
    assert changes["likelihood"].change.value == pytest.approx(-0.05, abs=0.01)
    assert changes["likelihood"].n == 50


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (replace(RUN, environment=replace(ENVIRONMENT, device="NVIDIA H200", torch="2.11")), {"device", "torch"}),
        (replace(RUN, environment=None), set(ENVIRONMENT.COMPARABLE) - {"driver"}),  # which a CPU has not either
        (with_cells(RUN, precision="bfloat16"), {"precision"}),
        (with_cells(RUN, attention="flash"), {"attention kernel"}),
        (with_cells(RUN, engine="hf"), {"engine"}),
        (with_cells(RUN, prompts="wikitext n=8"), {"prompts"}),
        (with_cells(RUN, seed=9), {"seed"}),
        (with_cells(RUN, model=replace(LLADA, weights="random")), {"weights"}),
    ],
)
def test_what_is_not_comparable_is_named_and_every_pair_is_marked(other, names):
    found = compare(RUN, other)
    # The last case turns the baseline into a target as well, so fewer cells find their partner; all are marked.
    assert names <= {d.name for d in found.obstacles}
    assert found.pairs
    assert not any(p.comparable for p in found.pairs)
    if "weights" not in names:
        assert names == {d.name for d in found.obstacles}
        assert len(found.pairs) == 6


def test_other_prompts_are_never_paired():
    other = with_cells(RUN, prompts="wikitext n=40")
    changes = [c for p in compare(RUN, other).pairs for c in p.quality]
    assert changes
    assert {(c.change, c.verdict, c.n) for c in changes} == {(None, None, None)}


def test_exact_partners_come_first_then_those_with_most_in_common():
    of = target_cell(8)
    hf, other = replace(of, engine="hf"), replace(of, engine="hf", precision="bfloat16", seed=4)
    first = Run("a", "a", ENVIRONMENT, (other, of), (), tuple(measured(c, [1.0] * 6) for c in (other, of)))
    second = Run("b", "b", ENVIRONMENT, (of, hf), (), tuple(measured(c, [1.0] * 6) for c in (of, hf)))
    found = compare(first, second)
    assert [(p.first.id, p.second.id) for p in found.pairs] == [(other.id, hf.id), (of.id, of.id)]
    assert [p.comparable for p in found.pairs] == [False, True]
    assert {d.name for d in found.obstacles} == {"precision", "seed"}


def test_hosts_and_versions_are_listed_but_forbid_nothing():
    found = compare(RUN, replace(RUN, environment=replace(ENVIRONMENT, host="other", dlmbench="0.2.0")))
    assert found.comparable
    assert [d.name for d in found.circumstances] == ["host", "dlmbench"]


# ---------------------------------------------------------------- the command


def stored(run: Run, folder: Path) -> Path:
    """`run` as a folder; latencies and texts' scores only."""
    folder.mkdir()
    lines = [{"kind": "environment", **asdict(run.environment)}]
    lines += [{"kind": "experiment", "name": run.name, "schema_version": 2}]
    lines += [cell_record(c) for c in run.cells]
    for result in run.results:
        records = (*result.samples, result.memory, result.traced)
        lines += [{"kind": KIND_OF[type(r)], **asdict(r)} for r in records if r is not None]
    (folder / RECORDS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_command_refuses_names_and_marks(capsys, tmp_path):
    here = stored(RUN, tmp_path / "a")
    there = stored(replace(RUN, environment=replace(ENVIRONMENT, device="GPU")), tmp_path / "b")
    code, out, err = run(capsys, "compare", here, there)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "device: cpu | GPU" in err
    assert "--anyway" in err
    code, out, _ = run(capsys, "compare", here, there, "--anyway")
    assert code == 0
    assert out.count("NOT COMPARABLE: device") >= 1 + 6  # the heading and every row
    code, out, _ = run(capsys, "compare", here, there, "--anyway", "--json")
    read = json.loads(out)
    assert read["comparable"] is False
    assert [p["comparable"] for p in read["pairs"]] == [False] * 6


def test_command_json_holds_the_numbers_of_the_table(capsys, tmp_path):
    here, there = stored(RUN, tmp_path / "a"), stored(scaled(RUN, 0.5), tmp_path / "b")
    code, out, _ = run(capsys, "compare", here, there, "--json")
    read = json.loads(out)
    assert code == 0
    assert read["comparable"] is True
    assert {p["verdict"] for p in read["pairs"]} == {"faster"}
    assert read["pairs"][0]["speedup"]["value"] == pytest.approx(2)
    code, out, _ = run(capsys, "compare", here, there)
    assert "6 faster" in out
    assert "2.00 [" in out


def test_names_from_files_are_never_markup(capsys, tmp_path):
    evil = with_cells(RUN, model=replace(LLADA, key="[red]x[/red] [link=javascript:1]"))
    found = run(capsys, "compare", stored(evil, tmp_path / "a"), stored(replace(evil, name="[/bold]"), tmp_path / "b"))
    assert found[0] == 0
    assert "[red]x[/red]" in found[1].replace("\n", " ")
    assert "[/bold]" in found[1]


def test_command_on_nothing_in_common_and_on_no_run(capsys, tmp_path):
    here, there = stored(RUN, tmp_path / "a"), stored(tiny_run(lengths=((8, 8),)), tmp_path / "b")
    assert "no cell in common" in run(capsys, "compare", here, there)[2]
    assert "is not a run folder" in run(capsys, "compare", here, tmp_path)[2]


def test_the_recorded_study_against_itself(capsys):
    code, out, _ = run(capsys, "compare", STUDY, STUDY, "--json")
    read = json.loads(out)
    assert code == 0
    assert len(read["pairs"]) == 30
    # Most cells have the pilot's 5 repetitions only.
    assert {p["verdict"] for p in read["pairs"]} == {"no difference shown", "too few repetitions"}
    assert all(p["quality"] == [] for p in read["pairs"])  # random weights
