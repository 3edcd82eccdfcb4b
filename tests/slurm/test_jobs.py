"""A run in shards: nothing lost, nothing twice, nothing mixed. Needs no cluster."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dlmbench.bench.stopping import stoppable
from dlmbench.errors import BenchError, StopRequestedError
from dlmbench.experiment import load
from dlmbench.experiment import plan as grid
from dlmbench.experiment.shards import balance, setting_of
from dlmbench.results import Store, read_run
from dlmbench.roofline import hardware
from dlmbench.slurm import merge, scheduler, shards, submission
from dlmbench.slurm.submission import Resources
from dlmbench.types import CellStatus, DeviceTime, EnergyWindow, Plan, Sample, StoredGeneration, TextScore
from support.experiments import embedded_pair
from support.program import fails, run
from support.synthetic_run import ENVIRONMENT, sample, target_cell

CONFIG = embedded_pair(steps="[2, 4, 8]", batch_size="[1, 2]", count=4, metrics="[distinct_1]")


@pytest.fixture
def submitted(tmp_path, monkeypatch):
    """A run of 8 cells in 4 shards as if submitted, with nothing queued."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "nowhere"))
    (tmp_path / "small.yaml").write_text(CONFIG)
    experiment = load.load(tmp_path / "small.yaml")
    made = submission.create(
        experiment, grid.expand(experiment), tmp_path / "run", 4, hardware.find("h200"), Resources(gres="")
    )
    made.folder.mkdir()
    made.save()
    return made


def fill(made, index, *, environment=ENVIRONMENT, cells=None, end=True):
    """Write a shard's records as a task would: for each cell three repetitions, a text and a score."""
    folder = made.shard_folder(index)
    part = made.shard_plan(made.plan(), index)
    with Store.open(folder, environment, made.experiment.name) as store:
        (folder / "experiment.json").write_text(json.dumps(asdict(made.experiment)))
        store.add_plan(part)
        for cell in part.cells[:cells]:
            for number in range(3):
                store.append(sample(cell, number, 0.1))
            store.add_generations([StoredGeneration(cell.id, 0, "h", (1,), "a", 4, None, 1)])
            if cell in part.scored_cells:
                store.add_text_scores([TextScore(cell.id, "distinct_1", 0, 1.0, 2.0)])
            store.append(CellStatus(cell.id, "ok"))
    if end and cells is None:
        shards.mark_ended(folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


# ---------------------------------------------------------------- shards


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_shards_are_the_plan_cut_into_parts_and_never_far_from_even(count):
    draw = random.Random(count)
    plan = Plan(tuple(target_cell(steps, batch_size=b) for steps in range(1, 31) for b in (1, 4)))
    seconds = {cell.id: draw.lognormvariate(0, 1.5) for cell in plan.cells}
    cut = balance(plan, count, seconds)
    in_shards = [i for s in cut for i in s.cell_ids]
    assert sorted(in_shards) == sorted(c.id for c in plan.cells)
    assert len(cut) == min(count, 30)
    times = [s.predicted_s for s in cut]
    assert times == sorted(times, reverse=True), "the longest starts first"
    assert times == pytest.approx([sum(seconds[i] for i in s.cell_ids) for s in cut])
    groups = [sum(seconds[c.id] for c in plan.cells if c.steps == steps) for steps in range(1, 31)]
    assert times[0] <= sum(groups) / len(cut) + max(groups), "what list scheduling guarantees"
    assert balance(plan, count, seconds) == cut


def test_cells_that_differ_in_batch_size_stay_together_so_that_texts_are_scored_once():
    plan = Plan(tuple(target_cell(steps, batch_size=b) for b in (1, 2, 8) for steps in (4, 8, 16)))
    for s in balance(plan, 2, {}):
        keys = {c.quality_key for c in plan.cells if c.id in s.cell_ids}
        assert len(s.cell_ids) == 3 * len(keys)
        assert s.predicted_s is None


def test_a_model_that_is_slow_to_load_is_not_loaded_in_every_shard():
    plan = Plan(
        tuple(target_cell(s, model=replace(target_cell(1).model, key=k, source=k)) for k in "ab" for s in range(1, 9))
    )
    seconds = {cell.id: 1.0 for cell in plan.cells}
    load_s = {setting_of(cell): 100.0 for cell in plan.cells}
    for s in balance(plan, 2, seconds, load_s):
        assert len({c.model.key for c in plan.cells if c.id in s.cell_ids}) == 1
        assert s.predicted_s == 108.0
    (only,) = balance(plan, 1, seconds, load_s)
    assert only.predicted_s == 216.0
    free = balance(plan, 2, seconds)
    assert all(len({c.model.key for c in plan.cells if c.id in s.cell_ids}) == 2 for s in free), "side by side"


def test_no_shard_loads_one_model_in_two_ways_while_that_can_be_avoided():
    cells = [replace(target_cell(s), precision=p) for s in range(1, 9) for p in ("float32", "bfloat16")]
    for count in (2, 3, 5):
        for s in balance(Plan(tuple(cells)), count, {}):
            assert len({c.precision for c in cells if c.id in s.cell_ids}) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 5, 100])
def test_processes_are_dealt_out_so_that_few_shards_load_twice(count):
    plan = Plan(tuple(target_cell(steps, batch_size=b) for steps in range(1, 5) for b in (1, 4)))
    seconds = {cell.id: 1.0 for cell in plan.cells}
    cut = balance(plan, count, seconds, {setting_of(c): 5.0 for c in plan.cells}, processes=3)
    assert len(cut) == min(count, 4 * 3)
    dealt = [(i, p) for s in cut for i, of in zip(s.cell_ids, s.processes, strict=True) for p in of]
    assert sorted(dealt) == sorted((c.id, p) for c in plan.cells for p in range(3))
    for s in cut:
        loads = max(map(len, s.processes))
        assert s.predicted_s == sum(map(len, s.processes)) + 5.0 * loads
        # As few loads as there can be: each process of a shard measures as many cells as possible.
        assert loads == {1: 3, 2: 2}.get(count, 1)
    if count == 3:
        assert all(len(s.cell_ids) == len(plan.cells) for s in cut), "one process of every cell each"


@pytest.mark.parametrize("seed", range(10, 20))
def test_no_shard_ends_late_because_it_loads_its_models_once_more(seed):
    draw, model = random.Random(seed), target_cell(1).model
    models = [replace(model, key=key, source=key) for key in ("a", *"b" * 2)]
    plan = Plan(tuple(target_cell(9 * i + s, model=m) for i, m in enumerate(models) for s in range(1, 10)))
    seconds = {cell.id: draw.uniform(3, 12) for cell in plan.cells}
    cut = balance(plan, 4, seconds, {setting_of(c): 16.0 for c in plan.cells}, processes=3)
    assert cut[0].predicted_s <= 1.03 * (sum(seconds.values()) * 3 / 4 + 2 * 16)


def test_a_submission_is_read_back_as_it_was(submitted):
    read = submission.load(submitted.folder)
    assert read == submitted
    assert read.plan().cells == submitted.plan().cells
    parts = [read.shard_plan(read.plan(), i) for i in range(4)]
    assert sorted(c.id for p in parts for c in p.cells) == sorted(c.id for c in read.plan().cells)
    with pytest.raises(BenchError, match="no shard 4"):
        read.shard_plan(read.plan(), 4)


def test_an_experiment_that_has_changed_since_is_refused(submitted):
    grids = (replace(submitted.experiment.grids[0], batch_sizes=(1,)),)
    with pytest.raises(BenchError, match="different cells now"):
        replace(submitted, experiment=replace(submitted.experiment, grids=grids)).plan()
    other = replace(submitted, experiment=replace(submitted.experiment, seed=1))
    with pytest.raises(BenchError, match=r"another experiment.*--resume"):
        submission.check_same_run(submitted, other)
    with pytest.raises(BenchError, match="4 shards, not 3"):
        submission.check_same_run(submitted, replace(submitted, shards=submitted.shards[:3]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: [],
        lambda whole: None,
        lambda whole: {"schema_version": 3},
        lambda whole: {"schema_version": 3, "experiment": {}},
        lambda whole: {**whole, "experiment": None},
        lambda whole: {**whole, "experiment": {**whole["experiment"], "models": ["ar"]}},
        lambda whole: {**whole, "experiment": {**whole["experiment"], "grids": [{"samplers": [{}]}]}},
        lambda whole: {**whole, "shards": [{**whole["shards"][0], "cell_ids": None}]},
        lambda whole: {**whole, "shards": [{"cell_ids": []}]},
        lambda whole: {**whole, "predicted": []},
        lambda whole: {**whole, "predicted": {"a": "soon"}},
        lambda whole: {**whole, "resources": {}},
        lambda whole: {**whole, "jobs": {"id": "1"}},
        lambda whole: {k: v for k, v in whole.items() if k != "device"},
    ],
)
def test_a_damaged_submission_is_one_line(submitted, capsys, damage):
    path = submitted.folder / "submission.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    fails(capsys, "status", submitted.folder, says=f"{path} cannot be read ... Restore it from a copy")


# ---------------------------------------------------------------- merging


def test_a_merge_has_every_cell_once_and_is_idempotent(submitted):
    for index in range(4):
        fill(submitted, index)
    merged = merge.merge_submitted(submitted.folder)
    assert (merged.shards, merged.cells, merged.repetitions, merged.gaps) == (4, 8, 24, ())
    result = read_run(submitted.folder)
    assert [c.id for c in result.cells] == [c.id for c in submitted.plan().cells], "in the order of the plan"
    assert all(r.status == "ok" and len(r.timed) == 3 for r in result.results)
    assert {s.cell_id for s in result.scores} == {c.id for c in submitted.plan().scored_cells}
    assert {s.value for s in result.scores} == {0.5}
    with (submitted.folder / "raw_metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 24
    before = files(submitted.folder)
    merge.merge_submitted(submitted.folder)
    assert files(submitted.folder) == before


def test_a_merge_keeps_the_published_scores_of_its_shards(submitted):
    for index in range(4):
        fill(submitted, index)
    scores = (Path(__file__).parents[2] / "docs/study/published.csv").read_text()
    for shard in {path.parent for path in submitted.folder.rglob("records.jsonl")} - {submitted.folder}:
        (shard / "published.csv").write_text(scores)
    merge.merge_submitted(submitted.folder)
    assert (submitted.folder / "published.csv").read_text() == scores


def test_processes_of_one_cell_in_several_shards_are_put_together(submitted):
    """Two shards hold processes of the same cell, whose repetitions they both number from 0."""
    cell = submitted.plan().cells[0]

    def measure(index, process_id, count, status="ok"):
        with Store.open(submitted.shard_folder(index), ENVIRONMENT, "small") as store:
            store.add_plan(Plan((cell,)))
            known = len(store.samples(cell.id))
            for number in range(known, known + count):
                store.append(sample(cell, number, 0.1 + number, process_id))
            store.append(EnergyWindow(cell.id, process_id, 4, 3.5, 40.0, 35))
            store.append(CellStatus(cell.id, status))
            store.append(DeviceTime(10.0, 1.0, 1.0, 5.0, 2.0, 1.0))

    def merged():
        folders = [submitted.shard_folder(i) for i in range(2)]
        merge.merge(submitted.folder, submitted.plan(), folders, (), are_dealt=True)
        return next(r for r in read_run(submitted.folder).results if r.cell.id == cell.id)

    measure(0, 11, 3)
    measure(1, 22, 4)
    result = merged()
    assert [(s.index, s.process_id) for s in result.timed] == [(i, 11 if i < 3 else 22) for i in range(7)]
    assert [w.process_id for w in result.energy] == [11, 22]
    assert result.status == "ok"
    assert len(read_run(submitted.folder).device_time) == 1, "equal lines are copies"
    before = files(submitted.folder)
    assert merged() == result
    assert files(submitted.folder) == before
    # The first shard goes on: numbers move, nothing is lost. A failure anywhere is the cell's.
    measure(0, 33, 3, status="oom")
    result = merged()
    assert [s.process_id for s in result.timed] == [11] * 3 + [33] * 3 + [22] * 4
    assert [s.index for s in result.timed] == list(range(10))
    assert result.status == "oom"


def test_metrics_added_to_the_merged_run_survive_another_merge(submitted):
    for index in range(4):
        fill(submitted, index)
    merge.merge_submitted(submitted.folder)
    added = TextScore(submitted.plan().cells[0].id, "repetition", 0, 0.0, 1.0)
    with Store.open(submitted.folder, ENVIRONMENT, "small") as store:
        store.add_text_scores([added])
    merge.merge_submitted(submitted.folder)
    assert added in read_run(submitted.folder).text_scores


def test_gaps_are_named_with_the_command_that_fills_them(submitted):
    fill(submitted, 0)
    fill(submitted, 1, cells=1)
    fill(submitted, 2, end=False)
    with pytest.raises(BenchError) as caught:
        merge.merge_submitted(submitted.folder)
    assert "shard 1 is missing 1 cell (" in caught.value.message
    assert "shard 2 is not finished" in caught.value.message
    assert "shard 3 is missing 2 cells (" in caught.value.message
    assert f"dlmbench submit --resume {submitted.folder}" in caught.value.hint
    assert not (submitted.folder / "records.jsonl").exists(), "nothing is written before all checks have passed"
    partial = merge.merge_submitted(submitted.folder, partial=True)
    assert (len(partial.gaps), partial.cells, partial.repetitions) == (3, 8, 15)
    fill(submitted, 3)
    shutil.rmtree(submitted.shard_folder(1))
    fill(submitted, 1)
    shards.mark_ended(submitted.shard_folder(2))
    assert merge.merge_submitted(submitted.folder).repetitions == 24, "a partial merge is replaced by a whole one"


def test_mixed_environments_are_refused_with_every_field_that_differs(submitted):
    for index in range(3):
        fill(submitted, index)
    fill(submitted, 3, environment=replace(ENVIRONMENT, device="NVIDIA A6000", driver="1.2", host="elsewhere"))
    with pytest.raises(BenchError) as caught:
        merge.merge_submitted(submitted.folder)
    assert "device: 'cpu' in 000 001 002, 'NVIDIA A6000' in 003" in caught.value.message
    assert "driver: None in 000 001 002, '1.2' in 003" in caught.value.message
    assert "host" not in caught.value.message


def test_a_cell_measured_twice_is_refused_and_a_copy_is_not(submitted, tmp_path):
    folders = [fill(submitted, index) for index in range(4)]
    shutil.copytree(folders[1], tmp_path / "copy")
    merged = merge.merge_folders(tmp_path / "all", [*folders, tmp_path / "copy"])
    assert (merged.cells, merged.repetitions) == (8, 24)
    lines = (tmp_path / "copy" / "records.jsonl").read_text().replace('"latency_s": 0.1', '"latency_s": 0.2')
    (tmp_path / "copy" / "records.jsonl").write_text(lines)
    with pytest.raises(BenchError, match=r"measured twice: in .*001 and in .*copy"):
        merge.merge_folders(tmp_path / "again", [*folders, tmp_path / "copy"])


def test_folders_that_do_not_belong_together_are_refused(submitted, tmp_path):
    folders = [fill(submitted, index) for index in range(4)]
    with pytest.raises(BenchError, match="there is no run in"):
        merge.merge_folders(tmp_path / "out", [tmp_path / "nothing"])
    # A run measured in the output folder itself is never overwritten.
    own = replace(sample(submitted.plan().cells[0], 0, 0.7), process_id=99)
    with Store.open(submitted.folder, ENVIRONMENT, "small") as store:
        store.add_plan(submitted.plan())
        store.append(own)
    before = files(submitted.folder)
    with pytest.raises(BenchError, match="a repetition that is in no shard"):
        merge.merge_submitted(submitted.folder)
    assert files(submitted.folder)["records.jsonl"] == before["records.jsonl"]
    other = asdict(submitted.experiment) | {"seed": 7}
    (folders[2] / "experiment.json").write_text(json.dumps(other))
    with pytest.raises(BenchError, match="different experiments: 000 and 002"):
        merge.merge_folders(tmp_path / "out", folders)


def test_a_shared_node_is_a_finding_of_the_whole_run(submitted):
    from dlmbench.analysis.findings import findings

    for index in range(4):
        fill(submitted, index, environment=replace(ENVIRONMENT, node_shared=index == 2))
    merge.merge_submitted(submitted.folder)
    result = read_run(submitted.folder)
    assert result.environment.node_shared is True
    assert [f.code for f in findings(result) if f.code == "node_shared"] == ["node_shared"]
    alone = replace(result, environment=replace(ENVIRONMENT, node_shared=False))
    assert "node_shared" not in {f.code for f in findings(alone)}


@pytest.mark.parametrize(("value", "known"), [("0", False), ("1", True), ("", None)])
def test_whether_the_node_is_shared_comes_from_the_job_script(monkeypatch, value, known):
    from dlmbench.measure.environment import fingerprint

    monkeypatch.setenv("DLMBENCH_NODE_SHARED", value)
    assert fingerprint("cpu").node_shared is known


def test_finish_merges_and_ends_with_the_report(submitted, capsys):
    for index in range(4):
        fill(submitted, index)
    code, out, err = run(capsys, "finish", submitted.folder)
    assert code == 0, err
    assert "merged 4 shards: 8 cells" in err
    assert "8 of 8 cells done" in err
    assert out.splitlines()[-1] == f"open {submitted.folder / 'report.html'}"


# ---------------------------------------------------------------- tasks


def test_the_first_task_decides_on_the_environment_and_others_must_agree(tmp_path):
    shards.claim_environment(tmp_path, ENVIRONMENT)
    shards.claim_environment(tmp_path, replace(ENVIRONMENT, host="elsewhere"))
    with pytest.raises(BenchError) as caught:
        shards.claim_environment(tmp_path, replace(ENVIRONMENT, device="NVIDIA A6000"))
    assert "device: 'cpu' on record, 'NVIDIA A6000' now" in caught.value.message
    assert "--gres gpu:a100:1" in caught.value.hint
    assert [p.name for p in (tmp_path / "shards").iterdir()] == ["environment.json"]


def unknown_here(made):
    """A submission from a machine that did not have the models."""
    models = tuple(replace(m, content=None) for m in made.experiment.models)
    old, new = (grid.expand(replace(made.experiment, models=m)).cells for m in (made.experiment.models, models))
    return made.with_models(models, {a.id: b.id for a, b in zip(old, new, strict=True)})


def test_the_first_task_records_the_content_of_models_that_the_login_node_did_not_have(submitted):
    assert all(m.content for m in submitted.experiment.models), "here they are known from the start"
    assert shards.claim_models(submitted, submitted.plan()) == submitted
    made = unknown_here(submitted)
    assert {c.id for c in made.plan().cells}.isdisjoint(c.id for c in submitted.plan().cells)
    made.save()
    assert submission.load(made.folder) == made
    assert shards.claim_models(made, made.plan()) == submitted
    # From then on everyone reads the ids that the records have; also a task that had loaded it before.
    assert submission.load(made.folder) == submitted
    assert shards.claim_models(made, made.plan()) == submitted
    submission.load(made.folder).save()
    assert submission.load(made.folder) == submitted


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"content": [], "cell_ids": {}}'])
def test_damaged_model_contents_are_reported_under_the_name_of_their_file(submitted, capsys, text):
    path = submitted.folder / "shards" / "models.json"
    path.parent.mkdir()
    path.write_text(text)
    fails(capsys, "status", submitted.folder, says=f"{path} cannot be read ... Restore it from a copy")


def test_a_task_that_finds_another_checkpoint_measures_nothing(submitted):
    made = unknown_here(submitted)
    plan = made.plan()
    shards.claim_models(made, plan)
    path = made.folder / "shards" / "models.json"
    path.write_text(path.read_text().replace(submitted.experiment.models[0].content, "c0ffee"))
    for known in (made, submission.load(made.folder)):
        with pytest.raises(BenchError, match=r"model ar: .* different checkpoint than .*c0ffee"):
            shards.claim_models(known, plan)


def test_the_same_command_again_with_another_checkpoint_is_refused(submitted):
    submission.check_same_run(submitted, unknown_here(submitted))
    submission.check_same_run(unknown_here(submitted), submitted)
    models = tuple(replace(m, content="c0ffee") for m in submitted.experiment.models)
    experiment = replace(submitted.experiment, models=models)
    with pytest.raises(BenchError, match="model ar: embedded:ar contains a different checkpoint than when"):
        submission.check_same_run(submitted, replace(submitted, experiment=experiment))


def test_a_task_that_asked_for_a_gpu_does_not_measure_on_the_cpu(submitted):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    wants = replace(submitted, resources=Resources(gres="gpu:1"))
    with pytest.raises(BenchError, match="torch sees no GPU"):
        shards.run_shard(wants, wants.plan(), 0, NoProgress())
    assert not (submitted.folder / "shards").exists()


class NoProgress:
    """Shows nothing; may send USR1 to this process after repetition number `at`."""

    def __init__(self, at=None):
        self.at, self.count = at, 0

    def cell(self, cell, doing):
        pass

    def left(self, seconds, unknown_cells):
        pass

    def repetition(self, cell, latency_s):
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGUSR1)

    def failed(self, cell, reason):
        pass


def test_usr1_ends_a_run_after_a_whole_repetition_and_the_next_start_resumes(submitted):
    part = submitted.shard_plan(submitted.plan(), 3)
    folder = submitted.shard_folder(3)
    with pytest.raises(StopRequestedError), stoppable(NoProgress(at=4), folder) as stopping:
        shards.run_shard(submitted, submitted.plan(), 3, stopping)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    before = [line for line in (folder / "records.jsonl").read_text().splitlines() if '"sample"' in line]
    assert len(before) == 4
    with stoppable(NoProgress(), folder) as stopping:
        shards.run_shard(submitted, submitted.plan(), 3, stopping)
    after = [line for line in (folder / "records.jsonl").read_text().splitlines() if '"sample"' in line]
    assert after[:4] == before
    found = read_run(folder)
    assert {r.cell.id for r in found.results if r.status == "ok"} == {c.id for c in part.cells}
    assert {s.cell_id for s in found.text_scores} == {c.id for c in part.scored_cells}
    assert (folder / "ended").is_file()


@pytest.mark.parametrize(("status", "is_queued"), [("error", True), ("oom", False), ("ok", False)])
def test_resuming_queues_complete_shards_again_whose_cells_failed(submitted, capsys, status, is_queued):
    plan = submitted.plan()
    for shard in submitted.shards:
        folder = submitted.shard_folder(shard.index)
        part = submitted.shard_plan(plan, shard.index)
        with Store.open(folder, ENVIRONMENT, "s", part) as store:
            for number, cell in enumerate(part.cells):
                store.append(CellStatus(cell.id, status if shard.index == 1 and not number else "ok", "why"))
        shards.mark_ended(folder)
    code, out, _ = run(capsys, "submit", "--resume", submitted.folder, "--dry-run")
    assert code == 0
    assert ("--array=1" in out) is is_queued


def test_a_limit_too_short_for_one_timed_repetition_is_an_error_and_not_another_try(tmp_path):
    cell = target_cell(4)

    def begin(processes, is_warmup):
        with (
            stoppable(NoProgress(at=1), tmp_path, processes) as stopping,
            Store.open(tmp_path, ENVIRONMENT, "s") as store,
        ):
            store.add_plan(Plan((cell,)))
            known: tuple[Sample, ...] = store.samples(cell.id)
            store.append(replace(sample(cell, len(known), 0.1), is_warmup=is_warmup))
            stopping.repetition(cell, 0.1)

    with pytest.raises(BenchError, match="stopped before one repetition"):
        begin(1, is_warmup=True)
    with pytest.raises(StopRequestedError):
        begin(1, is_warmup=False)
    # Of several processes, one that ends before its third repetition is measured again as a whole: no progress.
    with pytest.raises(BenchError, match="before one process had 3 repetitions"):
        begin(3, is_warmup=False)
    with pytest.raises(StopRequestedError):
        begin(3, is_warmup=False)


def test_a_cell_that_fails_at_every_start_is_no_progress(tmp_path):
    cell = target_cell(4)

    def begin(status):
        with stoppable(NoProgress(at=1), tmp_path) as stopping, Store.open(tmp_path, ENVIRONMENT, "s") as store:
            store.add_plan(Plan((cell,)))
            store.append(CellStatus(cell.id, status, "why"))
            stopping.repetition(cell, 0.1)

    for status in ("error", "oom", "invalid", "skipped"):
        with pytest.raises(BenchError, match="stopped before one repetition"):
            begin(status)
    with pytest.raises(StopRequestedError):
        begin("ok")


# ---------------------------------------------------------------- progress


def test_progress_is_read_from_the_records(submitted):
    fill(submitted, 0)
    fill(submitted, 1, cells=1)
    progress = shards.shard_progress(submitted)
    assert [(s.cells, s.ended, s.failed, s.is_complete) for s in progress] == [
        (2, 2, 0, True),
        (2, 1, 0, False),
        (2, 0, 0, False),
        (2, 0, 0, False),
    ]
    assert [round(s.measured_s, 9) for s in progress] == [0.6, 0.3, 0, 0]
    # Three cells have ended, each after 0.3 s; the ratio to their predictions scales the time left.
    ended = [*submitted.shards[0].cell_ids, submitted.shard_plan(submitted.plan(), 1).cells[0].id]
    ratio = 0.9 / sum(submitted.predicted[i] for i in ended)
    assert progress[0].left_s == 0
    for index in (2, 3):
        expected = sum(submitted.predicted[i] for i in submitted.shards[index].cell_ids)
        assert progress[index].left_s == pytest.approx(ratio * expected)
    unknown = replace(submitted, predicted={})
    assert shards.shard_progress(unknown)[3].left_s is None


def test_status_needs_no_slurm(submitted, capsys):
    fill(submitted, 0)
    made = replace(submitted, jobs=(submission.Job("12", (0, 1, 2, 3)), submission.Job("13")))
    made.save()
    code, out, err = run(capsys, "status", submitted.folder)
    assert code == 0
    assert "2 of 8 cells have ended, 0 of them failed." in out
    assert "the queue could not be read" in err
    fails(capsys, "status", submitted.folder.parent, says="was not submitted ... dlmbench submit")


def test_a_dry_run_shows_everything_and_leaves_nothing(submitted, capsys):
    code, out, err = run(
        capsys, "submit", "--config", "small.yaml", "--output_dir", "new", "--shards", 3, "--partition", "gpu",
        "--gres", "gpu:a100:1", "--hardware", "a100 80gb sxm", "--time", "2:00:00", "--account", "lab",
        "--sbatch=--mem=64G", "--dry-run",
    )  # fmt: skip
    assert code == 0, err
    array, last = out.splitlines()
    for option in (
        "--array=0,1,2", "--partition=gpu", "--gres=gpu:a100:1", "--time=2:00:00", "--account=lab", "--mem=64G",
        "--signal=B:USR1@180", "--requeue", "--exclusive",
    ):  # fmt: skip
        assert option in array.split()
    assert "--exclusive" not in last
    assert "--dependency=afterany:ARRAY_JOB" in last.split()
    assert "A100" in err
    assert not Path("new").exists()
    assert not Path("logs").exists()


def test_a_resumed_run_keeps_its_resources_and_refuses_other_options(submitted, capsys):
    again = ["submit", "--resume", submitted.folder, "--dry-run"]
    fails(
        capsys, *again, "--partition", "other", "--gres", "gpu:h100:1", "--account", "me", "--shards", 9,
        says="--shards, --partition, --gres, --account cannot be combined with --resume ... --time ... --output-dir",
    )  # fmt: skip
    # Also if the value is the default, or the option belongs to the experiment.
    for option in (["--gres", "gpu:1"], ["--shared"], ["-c", "small.yaml"], ["--steps", "4"], ["--allow_cpu"]):
        fails(capsys, *again, *option, says="--resume")
    code, out, err = run(capsys, *again, "--time", "3:00:00", "--warn", 60)
    assert code == 0, err
    array, last = out.splitlines()
    assert {"--time=3:00:00", "--signal=B:USR1@60"} < set(array.split())
    assert "--time=3:00:00" in last.split()


def test_a_warning_comes_after_the_start_of_a_task(submitted, capsys):
    given = ["submit", "--config", "small.yaml", "--output_dir", "new", "--gres", "none", "--dry-run"]
    fails(capsys, *given, "--time", "0:00:30", "--warn", 180, says="--time 0:00:30 ... 180 s ... --warn")
    fails(capsys, *given, "--time", "3", says="--time 3 ... 180 s")
    fails(capsys, "submit", "--resume", submitted.folder, "--dry-run", "--time", "2:00", says="--time 2:00")
    assert run(capsys, *given, "--time", "3", "--warn", 179)[0] == 0


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        *(("30", 1800), ("1:30", 90), ("4:00:00", 14400), ("1-2", 93600), ("1-0:30", 88200), ("2-0:0:1", 172801)),
        *(("", None), ("UNLIMITED", None), ("1:2:3:4", None)),
    ],
)
def test_time_limits_are_read_as_slurm_reads_them(time, seconds):
    assert submission.Resources(time=time).limit_s == seconds


def test_submitting_without_slurm_is_refused_with_the_reason(submitted, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    given = ["submit", "--config", "small.yaml", "--output_dir", "new", "--gres", "none"]
    fails(capsys, *given, says="sbatch is not on this machine ... dlmbench run")
    fails(capsys, "submit", "--resume", "nowhere", says="nowhere was not submitted")
    fails(capsys, *given, "--shards", 0, says="--shards")
    monkeypatch.setenv("DLMBENCH_HOME", "/nowhere")
    fails(capsys, *given, says="there is no /nowhere/jobs/benchmark_array.sbatch ... checkout")


@pytest.mark.parametrize(
    ("extra", "is_chosen"),
    [
        ((), False),
        (("--wckey=proj",), False),
        (("--wait",), False),
        (("-W",), False),
        (("--clusters=c1",), False),
        (("--comment=-w", "-Clarge"), True),
        (("--constraint=a100",), True),
        (("--constraint", "a100"), True),
        (("-C", "a100"), True),
        (("-C a100",), True),
        (("--nodelist=n[1-4]",), True),
        (("-wn1",), True),
    ],
)
def test_only_what_chooses_nodes_allows_a_partition_of_several_gpu_types(monkeypatch, extra, is_chosen):
    monkeypatch.setattr(scheduler, "run_command", lambda command: "")
    monkeypatch.setattr(scheduler, "gpu_types", lambda partition: ("a100", "v100"))
    if is_chosen:
        submission.check_resources(Resources(extra=extra))
        return
    with pytest.raises(BenchError, match=r"several types of GPU \(a100, v100\).*--gres gpu:a100:1"):
        submission.check_resources(Resources(extra=extra))


def test_a_folder_with_a_serial_run_is_not_submitted_into(submitted, capsys):
    with Store.open(Path("serial"), ENVIRONMENT, "small"):
        pass
    given = ["submit", "--config", "small.yaml", "--output_dir", "serial", "--dry-run"]
    fails(capsys, *given, says="serial contains a run that was not submitted ... dlmbench run")


def test_a_token_never_reaches_a_job(monkeypatch, tmp_path):
    command = tmp_path / "show"
    command.write_text("#!/bin/sh\n/usr/bin/env\n")
    command.chmod(0o755)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HOME", "/models")
    shown = scheduler.run_command([str(command)], {"DLMBENCH_HOME": "/x"})
    assert "hf_secret" not in shown
    assert "HF_HOME=/models" in shown
    assert "DLMBENCH_HOME=/x" in shown
