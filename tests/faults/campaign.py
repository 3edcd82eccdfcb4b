"""What faults do to a run: kills at random instants, full and vanishing disks, broken records, changed files.

    python tests/faults/campaign.py             # everything; writes docs/reliability.md
    python tests/faults/campaign.py --check     # writes nothing; --part: fewer of each kind, writes nothing either

Each fault meets the real command line. Then the same command runs again, and its end must be that of a run that nothing
disturbed: no repetition that was on record at the fault is lost, none is recorded twice, every cell is measured, texts
and scores are equal.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import psutil  # noqa: E402
from tables import markdown, write_part  # noqa: E402

import dlmbench  # noqa: E402
from dlmbench.errors import BenchError  # noqa: E402
from dlmbench.results import Store, read_generations, read_run  # noqa: E402
from dlmbench.results.records import read_records  # noqa: E402
from support.altered_program import altered  # noqa: E402
from support.experiments import embedded_pair  # noqa: E402
from support.program import command_line  # noqa: E402

CHECKPOINTS = Path(dlmbench.__file__).parent / "tiny/checkpoints"
PROCESSES, PILOT = 2, 3
PROTOCOL = f"{{warmup: 1, pilot: {PILOT}, min_repeats: 6, max_repeats: 6, processes: {PROCESSES}, rounds: 1}}"
CONFIG = embedded_pair(steps="[4]", count=2, protocol=PROTOCOL, metrics="[likelihood, oracle_log_prob]")
LONGEST_S = 300
SILENCE_S = 30  # the lowered limit, after which a worker that says nothing is ended
AT_ONCE = 2  # kinds of faults: a run alone leaves cores idle
RESUMES, ALL_DONE = "the same command resumes", "2 of 2 cells done"


@dataclass
class Fault:
    """One row of the table.

    seen: None where no one can look. kept: repetitions on record at the faults, None where they were not counted; lost:
    those of them that are gone at the end. runs: how many were compared, after one or several tries each, and how they
    ended (`ended_as`). loses: records are removed.
    """

    name: str
    seen: str | None = None
    tries: int = 0
    kept: int | None = None
    lost: int | None = None
    runs: int = 0
    ended_as: str = "ended as undisturbed"
    loses: bool = False

    def shows(self, code: int | None, stderr: str, expected: int, words: str) -> None:
        """Check what the user saw."""
        assert code == expected, (self.name, code, stderr)
        assert words in stderr, (self.name, stderr)
        assert "Traceback" not in stderr, (self.name, stderr)
        self.seen = f'"{words}", exit code {expected}'

    def count(self, kept: list[str], lines: list[str]) -> None:
        """Count the repetitions on record at one fault, and those that are not among `lines` of the end."""
        self.kept = (self.kept or 0) + len(kept)
        self.lost = (self.lost or 0) + len(Counter(kept) - Counter(lines))


@dataclass
class Campaign:
    """The faults tried so far, and the run that nothing disturbed."""

    folder: Path
    seed: int
    rows: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.config = self.folder / "pair.yaml"
        self.config.write_text(CONFIG)
        self.whole = self.folder / "whole"
        began = time.monotonic()
        done = finished(self.arguments(self.whole))
        self.whole_s = time.monotonic() - began
        assert done.returncode == 0, done.stderr

    def arguments(self, output: Path) -> list[str]:
        """The command that measures."""
        return command_line("run", "--config", self.config, "--output-dir", output)

    def on_two_devices(self, output: Path) -> list[str]:
        """The same on two devices at once, each one thread of this CPU."""
        return altered("run", "--config", self.config, "--output-dir", output, "--gpus", "2", devices=2)

    def start(self, output: Path, repetitions_first: int, command: list[str] | None = None) -> subprocess.Popen[str]:
        """A run in a process group of its own, once it has recorded so many repetitions."""
        process = started(command or self.arguments(output))
        deadline = time.monotonic() + LONGEST_S
        while len(repetitions(output)) < repetitions_first:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no repetitions"
            time.sleep(0.01)
        return process

    def part(self, output: Path, count: int) -> list[str]:
        """Copy the undisturbed run with its first `count` repetitions only; returns these."""
        output.mkdir()
        lines = (self.whole / "records.jsonl").read_text().splitlines(keepends=True)
        samples = [i for i, line in enumerate(lines) if '"kind": "sample"' in line]
        (output / "records.jsonl").write_text("".join(lines[: samples[count]]))
        return repetitions(output)

    def check(self, fault: Fault, output: Path, kept: list[str], command: list[str] | None = None) -> str:
        """Run again without a fault, then compare with the undisturbed run; returns what the user saw of it.

        kept: the repetitions that were on record when the fault came.
        """
        left = repetitions(output)
        done = finished(command or self.arguments(output))
        assert done.returncode == 0, (fault.name, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        self.compare(fault, output, kept, left)
        return done.stderr

    def compare(self, fault: Fault, output: Path, kept: list[str], left: list[str]) -> None:
        """Compare a run that has ended with the undisturbed one. left: the repetitions that the fault left."""
        lines = repetitions(output)
        fault.count(kept, lines)
        assert not Counter(left) - Counter(lines), fault.name
        assert not twice(lines), (fault.name, twice(lines))
        found, expected = state_of(output), state_of(self.whole)
        assert found == expected, (fault.name, found, expected)
        fault.tries += 1
        fault.runs += 1

    def of_kind(self, name: str) -> Campaign:
        """The same for one kind of faults, with rows and random numbers of its own."""
        part = copy.copy(self)
        part.rows, part.random = [], random.Random(f"{self.seed}:{name}")
        return part

    def fault(self, name: str) -> Fault:
        """A new row."""
        self.rows.append(Fault(name))
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {name}\n")
        return self.rows[-1]


ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT / "tests"), os.getenv("PYTHONPATH"))))}


def started(command: list[str]) -> subprocess.Popen[str]:
    """A command in a process group of its own."""
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, env=ENVIRONMENT
    )


def finished(command: list[str]) -> subprocess.CompletedProcess[str]:
    """A command, to its end."""
    return subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=False, env=ENVIRONMENT)


def killed(command: list[str], after_s: float) -> bool:
    """Kill a command and its workers after so many seconds. Whether that ended it: it may have ended before."""
    process = started(command)
    try:
        _, talk = process.communicate(timeout=after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, talk = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), (process.returncode, talk)
    return process.returncode == -signal.SIGKILL


def repetitions(output: Path) -> list[str]:
    """The whole lines of repetitions on record."""
    records = output / "records.jsonl"
    text = records.read_text() if records.exists() else ""
    return [line for line in text.split("\n")[:-1] if '"kind": "sample"' in line]


def twice(lines: list[str]) -> list[tuple[object, ...]]:
    """The repetitions that were recorded twice: by when they began, or under one number."""
    samples = [json.loads(line) for line in lines]
    keys = [(s["cell_id"], s["process_id"], s["started_at"]) for s in samples]
    keys += [(s["cell_id"], s["is_warmup"], s["index"]) for s in samples]
    return [key for key, count in Counter(keys).items() if count > 1]


def state_of(output: Path) -> dict[str, object]:
    """What must be equal in two runs of one experiment, whatever happened on the way."""
    run = read_run(output)
    least = 3
    processes = {
        r.cell.id: sum(n >= least for n in Counter(s.process_id for s in r.timed).values()) for r in run.results
    }
    return {
        "statuses": {r.cell.id: r.status for r in run.results},
        "processes": processes,
        "inspected": {r.cell.id for r in run.results if r.traced and r.memory},
        "texts": {(g.cell_id, g.prompt_index): g.text for g in read_generations(output)},
        "scores": {(s.cell_id, s.metric): round(s.value, 9) for s in run.scores if s.value is not None},
        "page": (output / "report.html").exists() and (output / "report.md").exists(),
    }


def progress_of(output: Path, whole: Mapping[str, object]) -> str:
    """How far a run was that a kill ended."""
    if not repetitions(output):
        return "before the first repetition"
    now = state_of(output)
    return "while measuring" if now["statuses"] != whole["statuses"] else "later"


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, of `size`."""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def kill_anywhere(campaign: Campaign, kills: int) -> None:
    """SIGKILL at random instants of the whole command, from its start to its report, again and again."""
    fault, when, number = campaign.fault("SIGKILL of `run`"), Counter[str](), 0
    whole = state_of(campaign.whole)
    while fault.tries < kills:
        output, at_kill = campaign.folder / f"killed-{number}", list[list[str]]()
        number += 1
        for _ in range(4):
            was_killed = killed(campaign.arguments(output), campaign.random.uniform(0.5, campaign.whole_s))
            now = repetitions(output)
            assert not at_kill or now[: len(at_kill[-1])] == at_kill[-1]
            if was_killed:
                at_kill.append(now)
                when[progress_of(output, whole)] += 1
        if at_kill:
            campaign.check(fault, output, at_kill[-1])
            for kept in at_kill[:-1]:  # the other kills of the same run
                fault.tries += 1
                fault.count(kept, repetitions(output))
    fault.name += f" ({', '.join(f'{n} {name}' for name, n in sorted(when.items()))})"


def kill_command(campaign: Campaign, name: str, command: Callable[[Path], list[str]], kills: int) -> None:
    """SIGKILL at random instants of a command on a finished run, each time on a fresh copy."""
    fault, number, longest_s = campaign.fault(f"SIGKILL of `{name}`"), 0, 0.0
    before = state_of(campaign.whole)
    expected: dict[str, object] = {}
    while fault.tries < kills:
        output = campaign.folder / f"killed-{name}-{number}"
        number += 1
        shutil.copytree(campaign.whole, output)
        for made in (output / "report.html", output / "report.md"):
            if name == "report":
                made.unlink()
        was_killed = bool(expected) and killed(command(output), campaign.random.uniform(0.2, longest_s))
        left, began = repetitions(output), time.monotonic()
        done = finished(command(output))
        assert done.returncode == 0, done.stderr
        if not expected:  # the first copy tells how long it takes, and what it yields
            longest_s, expected = time.monotonic() - began, state_of(output)
            assert before["scores"].items() <= expected["scores"].items()  # type: ignore[attr-defined]
            assert {**expected, "scores": 0} == {**before, "scores": 0}
        assert state_of(output) == expected
        if was_killed:
            kept = repetitions(campaign.whole)
            assert left == kept
            fault.tries, fault.runs = fault.tries + 1, fault.runs + 1
            fault.count(kept, repetitions(output))
        shutil.rmtree(output)


def kill_merge(campaign: Campaign, kills: int) -> None:
    """SIGKILL at random instants of a merge."""
    fault, longest_s = campaign.fault("SIGKILL of `merge`"), 0.0
    kept = repetitions(campaign.whole)
    whole = state_of(campaign.whole)
    while fault.tries < kills:
        merged = campaign.folder / "merged"
        command = command_line("merge", merged, campaign.whole)
        was_killed = longest_s > 0 and killed(command, campaign.random.uniform(0.2, longest_s))
        began = time.monotonic()
        done = finished(command)
        assert done.returncode == 0, done.stderr
        longest_s = longest_s or time.monotonic() - began
        assert repetitions(campaign.whole) == kept
        found = state_of(merged)
        assert {**found, "page": 0} == {**whole, "page": 0}
        assert not twice(repetitions(merged))
        if was_killed:
            fault.tries, fault.runs = fault.tries + 1, fault.runs + 1
            fault.count(kept, repetitions(merged))
        shutil.rmtree(merged)


def signals(campaign: Campaign, tries: int) -> None:
    """TERM and Ctrl-C to the whole group, as a scheduler and a terminal send them."""
    for number, code, name in ((signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")):
        fault = campaign.fault(name)
        for attempt in range(tries):
            output = campaign.folder / f"{name}-{attempt}"
            process = campaign.start(output, campaign.random.randint(1, 12))
            kept = frozen(process, output)
            os.killpg(process.pid, number)
            os.killpg(process.pid, signal.SIGCONT)
            _, talk = process.communicate(timeout=LONGEST_S)
            fault.shows(process.returncode, talk, code, RESUMES)
            left = repetitions(output)
            # One may have been on its way to the records when the run was frozen.
            assert left[: len(kept)] == kept, "what is recorded stays"
            assert len(left) - len(kept) in (1, 2), "the repetition under way is finished and recorded, and no other"
            campaign.check(fault, output, kept)


def frozen(process: subprocess.Popen[str], output: Path) -> list[str]:
    """Stop a run in the middle of a repetition that is not the last of its request; returns those on record."""
    deadline = time.monotonic() + LONGEST_S
    while True:
        before = repetitions(output)
        time.sleep(0.02)
        os.killpg(process.pid, signal.SIGSTOP)
        kept = repetitions(output)
        numbers = [json.loads(line)["process_id"] for line in kept]
        if kept == before and numbers.count(numbers[-1]) <= PILOT:  # of one warm-up and the pilot
            return kept
        os.killpg(process.pid, signal.SIGCONT)
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no repetition"


def kill_on_two_devices(campaign: Campaign, tries: int) -> None:
    """SIGKILL of a whole run that measures on two devices at once."""
    fault = campaign.fault("SIGKILL of a run on two devices")
    for attempt in range(tries):
        output = campaign.folder / f"two-{attempt}"
        process = campaign.start(output, campaign.random.randint(1, 14), campaign.on_two_devices(output))
        kept = repetitions(output)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        campaign.check(fault, output, kept, campaign.on_two_devices(output))


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The workers of a run: one for each model and device."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def dead_worker_of_two_devices(campaign: Campaign, tries: int) -> None:
    """A worker of one of two devices killed, as when its GPU is lost; the other device goes on."""
    fault = campaign.fault("a worker of one of two devices killed")
    for attempt in range(tries):
        output = campaign.folder / f"lost-{attempt}"
        process = campaign.start(output, 1, campaign.on_two_devices(output))
        # A worker that has work left: all have, as long as no cell has all its repetitions in one process.
        workers = workers_of(process)
        assert len(workers) >= 2, workers
        kept = repetitions(output)
        victim = campaign.random.choice(workers)
        victim.kill()
        _, talk = process.communicate(timeout=LONGEST_S)
        fault.shows(process.returncode, talk, 1, "the model's process died: signal 9")
        failed = [r for r in read_run(output).results if r.status != "ok"]
        assert len(failed) == 1, (failed, talk)
        assert failed[0].reason in talk, talk
        campaign.check(fault, output, kept, campaign.on_two_devices(output))


def dead_worker(campaign: Campaign, tries: int) -> None:
    """A worker that is killed from outside, as the system does when memory runs out."""
    fault = campaign.fault("a worker killed")
    lose_worker(campaign, tries, fault, psutil.Process.kill, "the model's process died: signal 9")


def hanging_worker(campaign: Campaign, tries: int) -> None:
    """A worker that is stopped and stays so, as one hangs in a driver; the limit of silence is lowered."""
    fault = campaign.fault(f"a worker hangs (limit of silence: {SILENCE_S} s)")
    lose_worker(campaign, tries, fault, psutil.Process.suspend, "gave no answer for", silent=SILENCE_S)


def lose_worker(
    campaign: Campaign,
    tries: int,
    fault: Fault,
    harm: Callable[[psutil.Process], None],
    says: str,
    silent: int | None = None,
) -> None:
    """One of a run's two workers is lost while it measures; the other model's cell is finished."""
    for attempt in range(tries):
        output = campaign.folder / f"{harm.__name__}-{attempt}"
        own = ("run", "--config", campaign.config, "--output-dir", output)
        command = None if silent is None else altered(*own, silent=silent)
        process = campaign.start(output, campaign.random.randint(1, 2), command)
        workers = workers_of(process)
        assert len(workers) == 2, workers
        kept = repetitions(output)
        harm(campaign.random.choice(workers))
        _, talk = process.communicate(timeout=LONGEST_S)
        fault.shows(process.returncode, talk, 1, says)
        assert sorted(str(r.status) for r in read_run(output).results) == ["error", "ok"]
        campaign.check(fault, output, kept)


def full_disk(campaign: Campaign, tries: int) -> None:
    """A disk that fills up while measuring; then there is space again."""
    fault = campaign.fault("disk full while measuring")
    for attempt in range(tries):
        with small_disk(campaign.folder / f"full-{attempt}", "8m") as disk:
            output, filler = disk / "run", disk / "filler"
            process = campaign.start(output, campaign.random.randint(1, 12))
            kept = repetitions(output)
            with filler.open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError:
                    pass
            _, talk = process.communicate(timeout=LONGEST_S)
            fault.shows(process.returncode, talk, 2, "the disk is full")
            assert any(r.status is None for r in read_run(output).results), "it was filled after measuring"
            filler.unlink()
            campaign.check(fault, output, kept)


def read_only(campaign: Campaign) -> None:
    """A folder that cannot be written."""
    fault = campaign.fault("read-only folder")
    with small_disk(campaign.folder / "read-only", "50m") as disk:
        output = disk / "run"
        kept = campaign.part(output, 8)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = finished(campaign.arguments(output))
        fault.shows(done.returncode, done.stderr, 2, "could not be written")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        campaign.check(fault, output, kept)


def removed_folder(campaign: Campaign) -> None:
    """The run folder is removed while the run writes there: what it held is gone, and the next run starts anew."""
    fault = campaign.fault("folder removed while running")
    output = campaign.folder / "removed"
    process = campaign.start(output, 3)
    kept = repetitions(output)
    shutil.rmtree(output, ignore_errors=True)
    _, talk = process.communicate(timeout=LONGEST_S)
    fault.shows(process.returncode, talk, 2, "could not be written")
    assert not repetitions(output)
    shutil.rmtree(output, ignore_errors=True)
    campaign.check(fault, output, [])
    fault.count(kept, repetitions(output))
    fault.loses = True


def torn_records(campaign: Campaign, through_program: int) -> None:
    """Records cut at every byte of the last two lines, as a crash of the machine may leave them."""
    data = (campaign.whole / "records.jsonl").read_bytes()
    after_samples = data.index(b"\n", data.rindex(b'"kind": "sample"')) + 1
    environment = read_records(campaign.whole).environment
    assert environment is not None
    copy = campaign.folder / "torn"
    fault = campaign.fault("records cut at every byte of the last two lines, and of the last two repetitions")
    cuts = [c for end in (len(data), after_samples) for c in range(two_lines_before(data, end), end)]
    for cut in cuts:
        copy.mkdir()
        whole_lines = data[: data.rindex(b"\n", 0, cut) + 1]
        kept = [line for line in whole_lines.decode().splitlines() if '"kind": "sample"' in line]
        (copy / "records.jsonl").write_bytes(data[:cut])
        with Store.open(copy, environment, "small") as store:
            found = sum(len(r.samples) for r in store.records.results())
        assert (copy / "records.jsonl").read_bytes() == whole_lines
        assert found == len(kept)
        fault.count(kept, repetitions(copy))
        fault.tries += 1
        shutil.rmtree(copy)
    fault.runs, fault.ended_as = fault.tries, "opened again, with all whole lines"
    fault = campaign.fault("records cut at a random byte, then `run`")
    for attempt in range(through_program):
        output = campaign.folder / "torn-run"
        shutil.copytree(campaign.whole, output)
        # Most among the last lines, where nothing is left to measure but much to write; some among the repetitions.
        first = two_lines_before(data, len(data)) if attempt % 6 else data.index(b'"kind": "sample"')
        cut = data[: campaign.random.randint(first, len(data) - 1)]
        (output / "records.jsonl").write_bytes(cut)
        fault.shows(0, campaign.check(fault, output, repetitions(output)), 0, ALL_DONE)
        shutil.rmtree(output)


def two_lines_before(data: bytes, end: int) -> int:
    """Where the last two lines before `end` begin."""
    return end - sum(len(line) for line in data[:end].splitlines(keepends=True)[-2:])


def two_writers(campaign: Campaign) -> None:
    """Two runs into one folder at the same time."""
    fault = campaign.fault("two writers at once")
    output = campaign.folder / "shared"
    first = campaign.start(output, 1)
    kept = repetitions(output)
    second = finished(campaign.arguments(output))
    fault.shows(second.returncode, second.stderr, 2, "another run is writing")
    _, talk = first.communicate(timeout=LONGEST_S)
    assert first.returncode == 0, talk
    assert "Traceback" not in talk
    left = repetitions(output)
    campaign.compare(fault, output, kept, left)
    assert finished(campaign.arguments(output)).returncode == 0
    assert repetitions(output) == left, "the first run left nothing to measure"


def clock_set_back(campaign: Campaign) -> None:
    """Half of the run was recorded by a clock that was a year ahead of today's."""
    fault = campaign.fault("clock set back by a year between two starts")
    output = campaign.folder / "clock"
    campaign.part(output, 8)
    records = [json.loads(line) for line in (output / "records.jsonl").read_text().splitlines()]
    for record in records:
        if at := record.get("started_at"):
            record["started_at"] = f"{int(at[:4]) + 1}{at[4:]}"
    (output / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    fault.shows(0, campaign.check(fault, output, repetitions(output)), 0, ALL_DONE)


def out_of_memory(campaign: Campaign) -> None:
    """A batch that does not fit into the memory that the process may take."""
    fault = campaign.fault("a worker out of memory (RLIMIT_AS)")
    output, config = campaign.folder / "oom", campaign.folder / "batches.yaml"
    command = command_line("run", "--config", config, "--output-dir", output, "--models", "llada", "--max-prompts", "2")
    large = CONFIG.replace("count: 2", f"count: {LARGE_BATCH}")
    config.write_text(large)
    done = finished(command)
    assert done.returncode == 0, done.stderr
    kept = repetitions(output)
    config.write_text(large.replace("batch_size: 1", f"batch_size: [1, {LARGE_BATCH}]"))
    process, deadline, talk = started(command), time.monotonic() + LONGEST_S, None
    while talk is None:  # workers only: the program that draws figures reserves more than it ever uses
        assert time.monotonic() < deadline, "out of memory, or out of time"
        with contextlib.suppress(psutil.NoSuchProcess):
            for worker in workers_of(process):
                worker.rlimit(psutil.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, talk = process.communicate(timeout=0.05)
    fault.shows(process.returncode, talk, 0, "out of memory")
    statuses = {r.cell.batch_size: r.status for r in read_run(output).results}
    assert statuses == {1: "ok", LARGE_BATCH: "oom"}, (statuses, talk)
    fault.seen += "; the cell is `oom`"
    fault.tries, fault.runs, fault.ended_as = 1, 1, "kept the smaller batch"
    fault.count(kept, repetitions(output))


LARGE_BATCH, MEMORY_BYTES = 16384, 6_000_000_000


def changed_weights(campaign: Campaign) -> None:
    """NaN in the weights; and other weights under a name that a run knows."""
    from safetensors.torch import load_file, save_file

    model, config = campaign.folder / "model", campaign.folder / "own.yaml"
    shutil.copytree(CHECKPOINTS / "llada", model)
    (weights,) = model.glob("*.safetensors")
    good = weights.read_bytes()
    tensors = load_file(weights)
    tensors[next(iter(tensors))][0] = float("nan")
    save_file(tensors, weights, {"format": "pt"})
    config.write_text(CONFIG.replace('"embedded:llada"', f'"{model}"'))

    fault = campaign.fault("NaN in the weights")
    output = campaign.folder / "nan"
    done = finished(command_line("run", "--config", config, "--output-dir", output))
    fault.shows(done.returncode, done.stderr, 1, "1 of 2 cells failed")
    results = {r.cell.model.key: r for r in read_run(output).results}
    assert {key: r.status for key, r in results.items()} == {"ar": "ok", "llada": "invalid"}
    fault.seen += "; the cell is `invalid`"
    fault.tries, fault.runs, fault.ended_as = 1, 1, "measured the other model"

    fault = campaign.fault("other weights under the same name")
    bad, output = weights.read_bytes(), campaign.folder / "replaced"
    weights.write_bytes(good)
    command = command_line("run", "--config", config, "--output-dir", output)
    process = campaign.start(output, 8, command)
    kept = repetitions(output)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    weights.write_bytes(bad)
    before = (output / "records.jsonl").read_bytes()
    done = finished(command)
    fault.shows(done.returncode, done.stderr, 2, "is a different checkpoint than")
    assert (output / "records.jsonl").read_bytes() == before
    weights.write_bytes(good)
    done = finished(command)
    assert done.returncode == 0, done.stderr
    lines = repetitions(output)
    assert not twice(lines)
    # The cells of a model elsewhere have other ids.
    found, expected = (sorted(map(str, state_of(o)["texts"].values())) for o in (output, campaign.whole))  # type: ignore[attr-defined]
    assert found == expected
    assert all(r.status == "ok" for r in read_run(output).results)
    fault.tries, fault.runs, fault.ended_as = 1, 1, "ended with the same texts"
    fault.count(kept, lines)


def shown(value: object) -> object:
    """A field of the table: a dash where nothing was counted or seen."""
    return "–" if value is None else value


def table(rows: list[Fault]) -> str:
    """What docs/reliability.md shows."""
    header = ("fault", "tries", "the user sees", "repetitions on record at the fault", "of them lost", "runs compared")
    lines = [(f.name, f.tries, *map(shown, (f.seen, f.kept, f.lost)), f"{f.runs} {f.ended_as}") for f in rows]
    return markdown(header, lines)


def main() -> None:
    """Run the faults, print the table, and write it after the whole campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--part", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", nargs="+", help="kinds, by the names of their functions")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int(time.time()) % 10_000
    sys.stderr.write(f"seed {seed}\n")
    part, is_root = options.part, os.geteuid() == 0
    is_written = not (part or options.check or options.only)
    assert is_root or not is_written, "the table is of all kinds of faults, and mounting a disk needs root"
    began, wrong = time.monotonic(), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), seed)
        kinds: list[tuple[Callable[..., None], tuple[object, ...]]] = [
            (kill_anywhere, (4 if part else 18,)),
            (kill_command, ("score", lambda o: command_line("score", o, "-m", "repetition"), 1 if part else 4)),
            (kill_command, ("report", lambda o: command_line("report", o), 1 if part else 4)),
            (kill_merge, (1 if part else 4,)),
            (kill_on_two_devices, (1 if part else 2,)),
            (dead_worker_of_two_devices, (1 if part else 2,)),
            (dead_worker, (1 if part else 2,)),
            (hanging_worker, (1 if part else 2,)),
            (signals, (1 if part else 2,)),
            (torn_records, (1 if part else 20,)),
            (two_writers, ()),
            (removed_folder, ()),
            (clock_set_back, ()),
            (out_of_memory, ()),
            (changed_weights, ()),
        ]
        if is_root:
            kinds += [(full_disk, (1 if part else 2,)), (read_only, ())]
        else:
            sys.stderr.write("a full and a read-only disk were not tried: mounting one needs root\n")

        def tried(kind: Callable[..., None], arguments: tuple[object, ...]) -> list[Fault]:
            own = campaign.of_kind(f"{kind.__name__}{arguments[:1]}")
            try:
                kind(own, *arguments)
            except Exception:  # the other kinds are worth knowing too
                wrong.append(own.rows[-1].name if own.rows else kind.__name__)
                traceback.print_exc()
            sys.stderr.write(table(own.rows) + "\n")  # the whole takes long, and may be stopped
            return own.rows

        wanted = [k for k in kinds if not options.only or k[0].__name__ in options.only]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            rows = [row for found in threads.map(tried, *zip(*wanted, strict=True)) for row in found]
    sys.stdout.write(table(rows) + "\n")
    sys.stderr.write(f"{time.monotonic() - began:.0f} s\n")
    wrong += [f"{f.lost} repetitions lost: {f.name}" for f in rows if f.lost and not f.loses]
    if wrong:
        sys.exit("; ".join(wrong))
    if is_written:
        write_part(ROOT / "docs/reliability.md", "faults", table(rows))


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(str(error))
