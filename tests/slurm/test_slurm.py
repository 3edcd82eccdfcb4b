"""Runs through a real SLURM on this machine, with two fake GPUs: time limits, cancelled tasks, full disks, lost nodes.

Nothing depends on the speed of the machine: the tests wait for events, and a time limit ends the long cell.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dlmbench.analysis.findings import findings
from dlmbench.results import read_generations, read_run
from dlmbench.slurm import scheduler, submission
from dlmbench.types import Run
from support.program import start

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PATIENCE_S = 900

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="starting SLURM needs root: munged and slurmd run as root here"),
    pytest.mark.skipif(
        not all(shutil.which(p) for p in ("slurmctld", "slurmd", "munged")),
        reason="SLURM is not installed (apt-get install slurm-wlm munge; `make slurm-test` does it)",
    ),
]

# The first grid takes seconds; the second is ended by max_time_s on any machine.
STUDY = """
name: study
models:
  ar: {{family: llama, source: "embedded:ar"}}
  llada: {{family: llada, source: "embedded:llada"}}
grid:
  - lengths: {{prompt_tokens: 16, new_tokens: 8}}
    batch_size: [1, 2]
    precision: float32
    attention: auto
    samplers:
      autoregressive: {{}}
      masked_diffusion: {{steps: [2, 4]}}
  - lengths: {{prompt_tokens: 64, new_tokens: 64}}
    batch_size: 4
    precision: float32
    attention: auto
    samplers:
      masked_diffusion: {{steps: [64]}}
prompts: {{source: tiny, count: 4}}
protocol:
  {{warmup: 1, pilot: 3, min_repeats: {repeats}, max_repeats: {repeats}, max_time_s: {limit_s},
   processes: 1, rounds: 1}}
metrics: [likelihood, distinct_1]
"""
SMALL = """
name: {name}
models:
  llada: {{family: llada, source: tiny, weights: random}}
grid:
  lengths: {{prompt_tokens: 8, new_tokens: 8}}
  batch_size: [1]
  precision: float32
  attention: auto
  samplers:
    masked_diffusion: {{steps: {steps}}}
prompts: {{source: tiny, count: 2}}
protocol: {{warmup: 1, pilot: 3, min_repeats: 2000, max_repeats: 2000, max_time_s: 15, processes: 1, rounds: 1}}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Path]:
    """A folder to submit from, with SLURM_CONF set for every command."""
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([HERE / "up.sh", folder], check=True, timeout=120)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    work = folder / "work"
    work.mkdir()
    yield work
    subprocess.run([HERE / "down.sh", folder], check=True, timeout=120)
    if before is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = before


def dlmbench(*arguments: object, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_TOKEN": "hf_shall_not_travel"}
    done = start(*arguments, timeout=PATIENCE_S, cwd=folder, env=environment)
    assert done.returncode == code, done.stderr + done.stdout
    return done


def submit(folder: Path, text: str, shards: int, *more: object) -> Path:
    """Submit `text` as an experiment and return its run folder."""
    name = re.search(r"name: (\w+)", text)[1]
    (folder / f"{name}.yaml").write_text(text)
    given = ("--config", f"{name}.yaml", "--output_dir", name, "--shards", shards, "--cpus-per-task", 1, "--allow-cpu")
    dlmbench("submit", *given, "--time", 30, *more, folder=folder)
    return folder / name


def ask(*command: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}{done.stdout}"
    return done.stdout


def set_time_limit(task: str, minutes: int) -> None:
    """Change a running task's limit; SLURM may refuse while it is busy with that task, so ask for up to a minute."""
    deadline = time.monotonic() + 60
    while True:
        try:
            ask("scontrol", "update", f"JobId={task}", f"TimeLimit={minutes}")
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(1)


def wait_for(what: str, is_so: Callable[[], object], folder: Path, every_s: float = 0.2) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            logs = "\n".join(f"--- {p.name}\n{p.read_text()}" for p in sorted(folder.glob("logs/slurm/*")))
            raise AssertionError(f"timeout while waiting for {what}\n{ask('squeue', '-a')}\n{logs}")
        time.sleep(every_s)


def timed(run: Path, index: int) -> list[str]:
    """The lines of a shard's timed repetitions."""
    records = run / submission.SHARDS / f"{index:03d}" / "records.jsonl"
    lines = records.read_text().split("\n")[:-1] if records.exists() else []
    return [line for line in lines if '"kind": "sample"' in line and '"is_warmup": false' in line]


def states(run: Path) -> dict[tuple[str, int | None], str]:
    jobs = [job.id for job in submission.load(run).jobs]
    return {(t.job, t.index): t.state for t in scheduler.tasks(jobs)}


def is_over(run: Path) -> bool:
    return not set(states(run).values()) & {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED"}


def log(run: Path, suffix: str) -> str:
    """The output of a job; "" if it has just started and the file does not exist yet."""
    written = run.parent / "logs" / "slurm" / f"dlmbench-{run.name}-{suffix}.out"
    return written.read_text() if written.exists() else ""


def assert_whole(run: Path, shards: int) -> Run:
    """Every planned cell is ok, and every repetition of every shard is in the merged run once."""
    made = submission.load(run)
    result = read_run(run)
    assert [c.id for c in result.cells] == [c.id for c in made.plan().cells]
    assert all(r.status == "ok" for r in result.results), [(r.cell.label, r.reason) for r in result.results]
    for r in result.results:
        assert [s.index for s in r.timed] == list(range(len(r.timed)))
        assert len(r.timed) >= 3, "the pilot at least"
    merged = [x for x in (run / "records.jsonl").read_text().splitlines() if '"is_warmup": false' in x]
    assert sorted(merged) == sorted(line for index in range(shards) for line in timed(run, index))
    return result


def test_an_array_reaches_its_time_limit_and_gives_the_results_of_a_serial_run(cluster):
    run = submit(cluster, STUDY.format(repeats=800, limit_s=90), 4, "--shared", "--warn", 118)
    array, last = submission.load(run).jobs
    (cluster / "one.yaml").write_text(SMALL.format(name="one", steps=[2]))
    given = {"CONFIG": "one.yaml", "OUTPUT_DIR": "one", "DLMBENCH_HOME": ROOT, "DLMBENCH_PYTHON": sys.executable}
    exports = ",".join(f"{k}={v}" for k, v in given.items())
    # Its default is an exclusive node, for which it would wait until the array ends.
    options = ("--parsable", "--exclusive=user", f"--export=ALL,{exports}", "--chdir", cluster, "--time=30")
    single = ask("sbatch", *options, ROOT / "jobs" / "benchmark_gpu.sbatch").strip()

    running = lambda: [i for (job, i), s in states(run).items() if job == array.id and s == "RUNNING"]  # noqa: E731
    wait_for("two tasks at once", lambda: len(running()) == 2, cluster)
    both = running()
    wait_for("their first output", lambda: all("GPU" in log(run, f"{array.id}_{i}") for i in both), cluster)
    gpus = [re.search(r"GPU (\S+),", log(run, f"{array.id}_{i}"))[1] for i in both]
    assert sorted(gpus) == ["0", "1"], "each task has a different GPU"

    long = next(c.id for c in submission.load(run).plan().cells if c.batch_size == 4)
    slow = next(s.index for s in submission.load(run).shards if long in s.cell_ids)
    wait_for("a repetition of the long cell", lambda: timed(run, slow), cluster)
    # A limit in one to two minutes with a warning 118 s earlier: SLURM sends USR1 at its next check, within half a
    # minute. By then the long cell has most of its 90 s left, and the job at least a minute.
    clock = ask("squeue", "-h", "-j", f"{array.id}_{slow}", "-o", "%M").strip().split(":")
    minutes = int(clock[-2]) + 60 * (int(clock[-3]) if len(clock) > 2 else 0)
    set_time_limit(f"{array.id}_{slow}", minutes + 2)
    shown = dlmbench("status", run, folder=cluster).stdout
    assert "of 7 cells have ended, 0 of them failed" in shown
    assert "Time left" in shown
    wait_for("the task to be queued again", lambda: "unfinished: requeueing" in log(run, f"{array.id}_{slow}"), cluster)
    before = timed(run, slow)
    assert before
    wait_for("its second start", lambda: "start 2" in log(run, f"{array.id}_{slow}"), cluster)
    set_time_limit(f"{array.id}_{slow}", 30)
    wait_for("the end", lambda: is_over(run), cluster)

    assert set(states(run).values()) == {"COMPLETED"}, states(run)
    result = assert_whole(run, 4)
    assert timed(run, slow)[: len(before)] == before, "nothing measured before the limit was measured again"
    longest = next(r for r in result.results if r.cell.batch_size == 4)
    assert len({s.process_id for s in longest.timed}) == 2
    assert result.environment.node_shared is True
    assert "node_shared" in {f.code for f in findings(result)}
    assert (run / "figures" / "pareto_frontier.png").stat().st_size > 10_000, "written by the dependent job"
    assert str(run / "report.html") in log(run, f"report-{last.id}")
    assert "diffusion" in (run / "report.html").read_text()

    # The serial run: the same cells, and the same results where they do not depend on time.
    (cluster / "serial.yaml").write_text(STUDY.format(repeats=4, limit_s=60))
    dlmbench("run", "--config", "serial.yaml", "--output_dir", "serial", folder=cluster)
    serial = read_run(cluster / "serial")
    assert [c.id for c in serial.cells] == [c.id for c in result.cells]

    def texts(folder: Path) -> dict[tuple[str, int], tuple[int, ...]]:
        return {(g.cell_id, g.prompt_index): g.output_ids for g in read_generations(folder)}

    assert texts(run) == texts(cluster / "serial")
    scores = {(s.cell_id, s.metric): s.value for s in result.scores}
    assert scores == pytest.approx({(s.cell_id, s.metric): s.value for s in serial.scores}, rel=1e-4)
    records = (run / "records.jsonl").read_bytes()
    dlmbench("merge", run, folder=cluster)
    assert (run / "records.jsonl").read_bytes() == records

    wait_for("the single job", lambda: not ask("squeue", "-h", "-j", single, "-t", "pd,r,cg"), cluster)
    assert [r.status for r in read_run(cluster / "one").results] == ["ok"]
    assert "hf_shall_not_travel" not in b"".join(
        p.read_bytes() for p in (cluster.parent / "state").rglob("*") if p.is_file()
    ).decode(errors="replace")


def test_a_cancelled_task_and_a_full_disk_are_completed_by_one_command(cluster):
    text = SMALL.format(name="broken", steps=[2, 4])
    disk = cluster / "broken" / submission.SHARDS / "000"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    try:
        run = submit(cluster, text, 2, "--shared")
        array, last = submission.load(run).jobs
        wait_for("a repetition of shard 1", lambda: timed(run, 1), cluster)
        ask("scancel", f"{array.id}_1")
        wait_for("all jobs to end", lambda: is_over(run), cluster)
        ended = states(run)
        assert ended[array.id, 1] == "CANCELLED"
        assert ended[array.id, 0] == "FAILED"
        assert "the disk is full" in log(run, f"{array.id}_0")
        assert ended[last.id, None] == "FAILED"
        command = f"dlmbench submit --resume {run}"
        assert command in log(run, f"report-{last.id}")
        assert "shard 0 is missing 1 cell (" in log(run, f"report-{last.id}")
        assert not (run / "records.jsonl").exists()
        shown = dlmbench("status", run, folder=cluster).stdout
        assert "Shards 0-1 are not in the queue" in shown
        assert command in shown

        kept = [timed(run, index) for index in range(2)]
        assert all(kept)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        dlmbench("submit", "--resume", run, folder=cluster)
        wait_for("the end", lambda: is_over(run), cluster)
        assert_whole(run, 2)
        for index in range(2):
            assert timed(run, index)[: len(kept[index])] == kept[index]
        shown = dlmbench("status", run, folder=cluster).stdout
        assert "2 of 2 cells have ended, 0 of them failed." in shown
        assert "All shards are done, and merged." in shown
    finally:
        ask("scancel", "-u", "root")
        wait_for("an idle node", lambda: "idle" in ask("sinfo", "-h", "-o", "%T"), cluster)
        subprocess.run(["umount", disk], check=True)


def test_a_node_that_goes_down_and_comes_back(cluster):
    node = ask("sinfo", "-h", "-N", "-o", "%N").strip()
    run = submit(cluster, SMALL.format(name="fallen", steps=[4]), 1)
    array, last = submission.load(run).jobs
    wait_for("a repetition", lambda: timed(run, 0), cluster)
    ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    wait_for("the task to be queued again", lambda: states(run)[array.id, 0] == "PENDING", cluster)
    before = timed(run, 0)
    # Resuming while the task is in the queue: nothing may be queued or measured twice.
    output = dlmbench("submit", "--resume", run, folder=cluster).stderr
    assert "in the queue" in output
    ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
    wait_for("the end", lambda: is_over(run), cluster)
    jobs = submission.load(run).jobs
    ended = states(run)
    assert [ended[array.id, 0], ended[last.id, None], ended[jobs[-1].id, None]] == [
        "COMPLETED",
        "CANCELLED",
        "COMPLETED",
    ]
    result = assert_whole(run, 1)
    assert timed(run, 0)[: len(before)] == before
    assert result.environment.node_shared is False, "an exclusive node is the default"
    assert "node_shared" not in {f.code for f in findings(result)}
    claimed = json.loads((run / "shards" / "environment.json").read_text())
    assert claimed["node_shared"] is False


def test_the_job_of_a_whole_study_is_accepted_as_it_stands(cluster):
    subprocess.run(["sbatch", "--test-only", ROOT / "jobs" / "benchmark_gpu.sbatch"], cwd=ROOT, check=True, timeout=60)
