"""What faults do to a run: kills at random instants, full and vanishing disks, broken records, changed files.

    python tests/faults/campaign.py [--part]    # everything, or a part of each kind; writes docs/reliability.md
    python tests/faults/campaign.py --check     # writes nothing

Each fault meets the real command line. Then the same command runs again, and its end must be that of a run that nothing
disturbed: no repetition recorded before is lost or doubled, every cell is measured, texts and scores are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from tables import markdown, write_part  # noqa: E402

import dlmbench  # noqa: E402
from dlmbench.errors import BenchError  # noqa: E402
from dlmbench.results import Store, read_generations, read_run  # noqa: E402
from dlmbench.results.records import read_records  # noqa: E402
from support.experiments import embedded_pair  # noqa: E402
from support.program import command_line  # noqa: E402

CHECKPOINTS = Path(dlmbench.__file__).parent / "tiny/checkpoints"
PROTOCOL = "{warmup: 1, pilot: 3, min_repeats: 6, max_repeats: 6, processes: 2, rounds: 1}"
CONFIG = embedded_pair(steps="[4]", count=2, protocol=PROTOCOL, metrics="[likelihood, oracle_log_prob]")
LONGEST_S = 300


@dataclass
class Fault:
    """One row of the table. kept: repetitions that a fault left. ended: tries after which the run ended as usual."""

    name: str
    seen: str
    tries: int = 0
    kept: int = 0
    lost: int = 0
    ended: int = 0


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
        done = self.run(self.whole)
        assert done.returncode == 0, done.stderr

    def arguments(self, output: Path) -> list[str]:
        """The command that measures."""
        return command_line("run", "--config", self.config, "--output-dir", output)

    def run(self, output: Path, **settings: object) -> subprocess.CompletedProcess[str]:
        """That command, to its end."""
        return finished(self.arguments(output), **settings)

    def check(self, fault: Fault, output: Path, kept: list[str]) -> None:
        """Run again without a fault, then compare with the undisturbed run."""
        done = self.run(output)
        assert done.returncode == 0, (fault.name, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        lines = repetitions(output)
        fault.kept += len(kept)
        fault.lost += len(Counter(kept) - Counter(lines))
        same = state_of(output) == state_of(self.whole)
        doubled = len(set(lines)) != len(lines)
        fault.ended += same and not doubled
        assert same, (fault.name, state_of(output), state_of(self.whole))
        assert not doubled, fault.name

    def fault(self, name: str, seen: str) -> Fault:
        """A new row."""
        self.rows.append(Fault(name, seen))
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {name}\n")
        return self.rows[-1]


def finished(command: list[str], **settings: object) -> subprocess.CompletedProcess[str]:
    """A command, to its end."""
    return subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=False, **settings)  # type: ignore[call-overload,no-any-return]


def killed(command: list[str], after_s: float) -> bool:
    """Kill a command after so many seconds. Whether it was killed: it may have ended before."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait() == -signal.SIGKILL


def repetitions(output: Path) -> list[str]:
    """The whole lines of repetitions on record."""
    records = output / "records.jsonl"
    text = records.read_text() if records.exists() else ""
    return [line for line in text.split("\n")[:-1] if '"kind": "sample"' in line]


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
        "texts": {(g.cell_id, g.prompt_index): g.text for g in read_generations(output)},
        "scores": {(s.cell_id, s.metric): round(s.value, 9) for s in run.scores if s.value is not None},
        "page": (output / "report.html").exists() and (output / "report.md").exists(),
    }


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, of `size`."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def kill_anywhere(campaign: Campaign, kills: int) -> None:
    """SIGKILL at random instants of the whole command, from its start to its report, again and again."""
    fault = campaign.fault("SIGKILL while measuring, scoring or reporting", "nothing")
    number = 0
    while fault.tries < kills:
        output, kept, before = campaign.folder / f"killed-{number}", [], fault.tries
        number += 1
        for _ in range(4):
            process = subprocess.Popen(
                campaign.arguments(output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            try:
                process.wait(campaign.random.uniform(1, 22))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                fault.tries += 1
            now = repetitions(output)
            assert now[: len(kept)] == kept
            kept = now
        campaign.check(fault, output, kept)
        fault.ended += fault.tries - before - 1


def kill_command(campaign: Campaign, name: str, command: Callable[[Path], list[str]], kills: int) -> None:
    """SIGKILL at random instants of a command on a finished run."""
    fault = campaign.fault(f"SIGKILL of `{name}`", "nothing")
    output = campaign.folder / f"killed-{name}"
    shutil.copytree(campaign.whole, output)
    kept = repetitions(output)
    while fault.tries < kills:
        fault.tries += killed(command(output), campaign.random.uniform(0.5, 6))
        read_run(output)
    done = finished(command(output))
    assert done.returncode == 0, done.stderr
    fault.kept, fault.lost = len(kept), len(set(kept) - set(repetitions(output)))
    first = state_of(campaign.whole)
    scores = first.pop("scores")
    last = state_of(output)
    assert scores.items() <= last.pop("scores").items()  # type: ignore[attr-defined]
    assert last == first
    fault.ended = fault.tries


def kill_merge(campaign: Campaign, kills: int) -> None:
    """SIGKILL at random instants of a merge."""
    fault = campaign.fault("SIGKILL of `merge`", "nothing")
    merged = campaign.folder / "merged"
    command = command_line("merge", merged, campaign.whole)
    while fault.tries < kills:
        fault.tries += killed(command, campaign.random.uniform(0.3, 2.5))
    done = finished(command)
    assert done.returncode == 0, done.stderr
    kept = repetitions(campaign.whole)
    fault.kept, fault.lost = len(kept), len(set(kept) - set(repetitions(merged)))
    fault.ended = fault.tries


def signals(campaign: Campaign, tries: int) -> None:
    """TERM and Ctrl-C to the whole group, as a scheduler and a terminal send them."""
    for number, code, name in ((signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")):
        fault = campaign.fault(name, f'"the same command resumes", exit code {code}')
        for attempt in range(tries):
            output = campaign.folder / f"{name}-{attempt}"
            process = subprocess.Popen(
                campaign.arguments(output),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            wanted = campaign.random.randint(2, 12)
            while len(repetitions(output)) < wanted:
                assert process.poll() is None
                time.sleep(0.02)
            os.killpg(process.pid, number)
            _, talk = process.communicate(timeout=LONGEST_S)
            assert process.returncode == code, talk
            assert "the same command resumes" in talk
            assert "Traceback" not in talk
            fault.tries += 1
            campaign.check(fault, output, repetitions(output))


def full_disk(campaign: Campaign, tries: int) -> None:
    """A disk that fills up while measuring; then there is space again."""
    fault = campaign.fault("disk full", '"the disk is full", exit code 2')
    for attempt in range(tries):
        folder = campaign.folder / f"full-{attempt}"
        folder.mkdir()
        with small_disk(folder, f"{campaign.random.randint(24, 90)}k") as disk:
            output = disk / "run"
            done = campaign.run(output)
            assert done.returncode == 2, (done.returncode, done.stderr)
            assert "disk is full" in done.stderr
            assert "Traceback" not in done.stderr
            kept = repetitions(output)
            subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
            fault.tries += 1
            campaign.check(fault, output, kept)


def read_only(campaign: Campaign) -> None:
    """A folder that cannot be written."""
    fault = campaign.fault("read-only folder", '"could not be written", exit code 2')
    folder = campaign.folder / "read-only"
    folder.mkdir()
    with small_disk(folder, "50m") as disk:
        output = disk / "run"
        shutil.copytree(campaign.whole, output)
        kept = repetitions(output)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = campaign.run(output)
        assert done.returncode == 2, (done.returncode, done.stderr)
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        fault.tries += 1
        campaign.check(fault, output, kept)


def removed_folder(campaign: Campaign) -> None:
    """The run folder is removed while the run writes there."""
    fault = campaign.fault("folder removed while running", '"could not be written", exit code 2')
    output = campaign.folder / "removed"
    process = subprocess.Popen(campaign.arguments(output), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while len(repetitions(output)) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    shutil.rmtree(output, ignore_errors=True)
    _, talk = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 2, talk
    assert "Traceback" not in talk
    shutil.rmtree(output, ignore_errors=True)
    fault.tries += 1
    campaign.check(fault, output, [])


def torn_records(campaign: Campaign, through_program: int) -> None:
    """Records cut at every byte of the last two lines, as a crash of the machine may leave them."""
    fault = campaign.fault("records cut at every byte of two lines", "nothing, or the line that is broken")
    data = (campaign.whole / "records.jsonl").read_bytes()
    lines = data.split(b"\n")
    start = len(data) - len(b"\n".join(lines[-3:]))
    environment = read_records(campaign.whole).environment
    assert environment is not None
    copy = campaign.folder / "torn"
    for cut in range(start, len(data)):
        copy.mkdir()
        (copy / "records.jsonl").write_bytes(data[:cut])
        with Store.open(copy, environment, "small") as store:
            found = sum(len(r.samples) for r in store.records.results())
        kept = sum(b'"kind": "sample"' in line for line in data[:cut].split(b"\n")[:-1])
        fault.kept += kept
        fault.lost += kept - found
        fault.tries += 1
        fault.ended += 1
        shutil.rmtree(copy)
    for _ in range(through_program):
        output = campaign.folder / "torn-run"
        shutil.copytree(campaign.whole, output)
        (output / "records.jsonl").write_bytes(data[: campaign.random.randint(start, len(data) - 1)])
        fault.tries += 1
        campaign.check(fault, output, repetitions(output))
        shutil.rmtree(output)


def two_writers(campaign: Campaign) -> None:
    """Two runs into one folder at the same time."""
    fault = campaign.fault("two writers at once", '"another run is writing", exit code 2')
    output = campaign.folder / "shared"
    first = subprocess.Popen(campaign.arguments(output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not repetitions(output):
        assert first.poll() is None
        time.sleep(0.02)
    second = campaign.run(output)
    assert second.returncode == 2, second.stderr
    assert "another run is writing" in second.stderr
    first.wait(LONGEST_S)
    fault.tries += 1
    campaign.check(fault, output, repetitions(output))


def clock_set_back(campaign: Campaign) -> None:
    """Half of the run was recorded by a clock that was a year ahead of today's."""
    fault = campaign.fault("clock set back by a year between two starts", "nothing")
    output = campaign.folder / "clock"
    output.mkdir()
    lines = (campaign.whole / "records.jsonl").read_text().splitlines()
    cells = [line for line in lines if '"sample"' not in line and '"kind": "status"' not in line]
    samples = [line for line in lines if '"kind": "sample"' in line][:6]
    later = [
        json.dumps(v | {"started_at": f"{int(v['started_at'][:4]) + 1}{v['started_at'][4:]}"})
        for v in map(json.loads, samples)
    ]
    kinds = ("experiment", "environment", "cell", "left_out")
    head = [line for line in cells if json.loads(line)["kind"] in kinds]
    (output / "records.jsonl").write_text("\n".join([*head, *later]) + "\n")
    fault.tries += 1
    campaign.check(fault, output, repetitions(output))


def out_of_memory(campaign: Campaign) -> None:
    """A batch that does not fit into the memory that the process may take."""
    fault = campaign.fault("out of memory (RLIMIT_AS)", "the cell is `oom`, exit code 0")
    config = campaign.folder / "large.yaml"
    config.write_text(CONFIG.replace("batch_size: 1", "batch_size: [1, 16384]").replace("count: 2", "count: 16384"))
    output = campaign.folder / "oom"
    command = command_line("run", "--config", config, "--output-dir", output, "--models", "llada", "--max-prompts", "2")
    command = ["prlimit", f"--as={6_000_000_000}", *command]
    done = finished(command)
    assert "Traceback" not in done.stderr, done.stderr
    statuses = Counter(r.status for r in read_run(output).results)
    assert statuses["ok"] == 1, (statuses, done.stderr)
    assert statuses["oom"] == 1, (statuses, done.stderr)
    fault.tries += 1
    fault.ended += 1
    fault.kept += len(repetitions(output))


def changed_weights(campaign: Campaign) -> None:
    """NaN in the weights; and other weights under a name that a run knows."""
    from safetensors.torch import load_file, save_file

    fault = campaign.fault("NaN in the weights", "the cell is `invalid`, exit code 1")
    model = campaign.folder / "model"
    shutil.copytree(CHECKPOINTS / "llada", model)
    (weights,) = model.glob("*.safetensors")
    good = weights.read_bytes()
    tensors = load_file(weights)
    first = next(iter(tensors))
    tensors[first][0] = float("nan")
    save_file(tensors, weights, {"format": "pt"})
    config = campaign.folder / "own.yaml"
    config.write_text(CONFIG.replace('"embedded:llada"', f'"{model}"'))
    output = campaign.folder / "nan"
    command = command_line("run", "--config", config, "--output-dir", output)
    done = finished(command)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    statuses = {r.cell.model.key: r.status for r in read_run(output).results}
    assert statuses == {"ar": "ok", "llada": "invalid"}
    kept = repetitions(output)
    fault.tries, fault.ended, fault.kept = 1, 1, len(kept)

    fault = campaign.fault("other weights under the same name", "what differs, exit code 2")
    weights.write_bytes(good)
    before = (output / "records.jsonl").read_bytes()
    done = finished(command)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert (output / "records.jsonl").read_bytes() == before
    fault.tries, fault.ended, fault.kept = 1, 1, len(kept)


def dead_worker(campaign: Campaign) -> None:
    """A worker that is killed from outside, as the system does when memory runs out."""
    import psutil

    fault = campaign.fault("a worker killed", "its cell failed and why, exit code 1; the next run measures it")
    output = campaign.folder / "worker"
    process = subprocess.Popen(campaign.arguments(output), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while len(repetitions(output)) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    for worker in psutil.Process(process.pid).children(recursive=True):
        if "spawn_main" in " ".join(worker.cmdline()):
            worker.kill()
            break
    _, talk = process.communicate(timeout=LONGEST_S)
    assert process.returncode in (0, 1), talk
    assert "Traceback" not in talk
    fault.tries += 1
    campaign.check(fault, output, repetitions(output))


def table(rows: list[Fault]) -> str:
    """What docs/reliability.md shows."""
    header = ("fault", "tries", "the user sees", "repetitions on record before", "of them lost", "ended as undisturbed")
    lines = [(f.name, f.tries, f.seen, f.kept, f.lost, f"{f.ended} of {f.tries}") for f in rows]
    return markdown(header, lines)


def main() -> None:
    """Run the faults, print the table, and write it after the whole campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--part", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", help="one kind, by the name of its function")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int(time.time()) % 10_000
    sys.stderr.write(f"seed {seed}\n")
    part, is_root = options.part, os.geteuid() == 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), seed)
        kinds: list[tuple[Callable[..., None], tuple[object, ...]]] = [
            (kill_anywhere, (4 if part else 18,)),
            (kill_command, ("score", lambda o: command_line("score", o, "-m", "repetition"), 1 if part else 4)),
            (kill_command, ("report", lambda o: command_line("report", o), 2 if part else 4)),
            (kill_merge, (1 if part else 4,)),
            (signals, (1 if part else 3,)),
            (torn_records, (1 if part else 20,)),
            (two_writers, ()),
            (removed_folder, ()),
            (clock_set_back, ()),
            (out_of_memory, ()),
            (changed_weights, ()),
            (dead_worker, ()),
        ]
        if is_root:
            kinds += [(full_disk, (1 if part else 3,)), (read_only, ())]
        else:
            sys.stderr.write("a full and a read-only disk were not tried: mounting one needs root\n")
        for kind, arguments in kinds:
            if options.only in (None, kind.__name__):
                kind(campaign, *arguments)
    sys.stdout.write(table(campaign.rows) + "\n")
    sys.stderr.write(f"{time.monotonic() - began:.0f} s\n")
    assert not any(f.lost for f in campaign.rows)
    if not options.check and options.only is None:
        assert is_root, "the table is written with all kinds of faults only"
        write_part(ROOT / "docs/reliability.md", "faults", table(campaign.rows))


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(str(error))
