import csv
import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.results import FIXED_COLUMNS, Store, read_generations, read_run, read_text_results, recorded_protocol
from dlmbench.results.journal import is_being_written
from dlmbench.types import (
    Cell,
    CellStatus,
    EnergyWindow,
    Environment,
    LeftOut,
    MemoryPass,
    ModelSpec,
    Plan,
    ProtocolSettings,
    Sample,
    Score,
    StoredGeneration,
    TextScore,
    TracedPass,
    UnscoredText,
)

HERE = Path(__file__).resolve()
GOLDEN = HERE.parents[1] / "golden" / "raw_metrics_header.csv"
STUDY = HERE.parents[2] / "docs" / "study"
ENVIRONMENT = Environment(
    device="GPU A", device_count=1, driver="1", cuda="12", python="3.11", torch="2", transformers="5", cpu="c",
    cpu_threads=2, memory_bytes=1, power_cap_w=None, host="h", platform="p", dlmbench="0", git_commit=None,
)  # fmt: skip


def a_cell(key="llada", knobs=(("steps", 8),), **changes):
    model = ModelSpec(key, "llada", f"models/{key}", "target", weights="random")
    cell = Cell(model, "native", "masked_diffusion", knobs, 2, 16, 4, "bfloat16", "math", 0, "tiny")
    return replace(cell, **changes)


def a_sample(cell, index, **changes):
    sample = Sample(
        cell_id=cell.id, index=index, is_warmup=False, round=0, process_id=os.getpid(), started_at="2026-01-01",
        clock="wall", latency_s=0.5, wall_s=0.6, new_tokens=8, useful_tokens=6, output_bytes=20, forwards=2,
        positions=40, attention_pairs=800, wasted_positions=0,
    )  # fmt: skip
    return replace(sample, **changes)


def an_open_store(folder, cell=None, environment=ENVIRONMENT):
    store = Store.open(folder, environment, "study")
    store.add_plan(Plan((cell or a_cell(),), (LeftOut("x", "does not divide"),)))
    return store


def rows_of(folder):
    with (folder / "raw_metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def child(code, *arguments):
    """A process that runs `code` with this module's names at hand."""
    prelude = (
        "import importlib.util as u, sys; s = u.spec_from_file_location('t', sys.argv[1]);"
        "t = u.module_from_spec(s); s.loader.exec_module(t); from pathlib import Path; folder = Path(sys.argv[2])\n"
    )
    command = [sys.executable, "-c", prelude + code, str(HERE), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_everything_recorded_is_read_back_as_it_was(tmp_path):
    cell = a_cell(knobs=(("steps", 8), ("temperature", 0.5), ("commit", "confidence"), ("block_length", None)))
    records = (
        a_sample(cell, 0, is_warmup=True),
        a_sample(cell, 0),
        TracedPass(cell.id, 1, None, None, None, None, None, 0.25, 0.1),
        MemoryPass(cell.id, 1, "rss", peak_process_bytes=9),
        EnergyWindow(cell.id, 1, 3, 0.6, 12.5, 30),
        EnergyWindow(cell.id, 2, 4, 0.8, 16.5, 40),
        CellStatus(cell.id, "error", "first"),
        CellStatus(cell.id, "ok"),
    )
    text = StoredGeneration(cell.id, 0, "h", (1, 2), "é\u2028\ud800", 8, 2, 3)
    scores = (TextScore(cell.id, "m", 0, 1.0, 4.0), TextScore(cell.id, "m", 1, math.inf, 4.0))
    score = Score(cell.id, "m", math.nan, None, math.inf, 0.5, 2, "nats", False)
    with an_open_store(tmp_path, cell) as store:
        for record in records:
            store.append(record)
        store.add_generations([text, replace(text, prompt_index=1)])
        store.add_generations([replace(text, output_ids=(7,))])
        store.add_text_scores([replace(scores[0], total=99.0), *scores])
        store.write_scores([score])
        assert store.records.results() == read_run(tmp_path).results
        assert store.samples(cell.id) == records[:2]
    run = read_run(tmp_path)
    assert (run.name, run.environment, run.cells) == ("study", ENVIRONMENT, (cell,))
    assert run.left_out == (LeftOut("x", "does not divide"),)
    result = run.results[0]
    assert result.timed == (records[1],)
    assert (result.traced, result.memory, *result.energy) == records[2:6]
    assert (result.status, result.reason, result.environment_id) == ("ok", "", ENVIRONMENT.id)
    assert read_generations(tmp_path) == (replace(text, output_ids=(7,)), replace(text, prompt_index=1))
    assert read_text_results(tmp_path) == run.text_scores == scores
    assert run.scores == (replace(score, value=None, high=None),)


def test_resuming_adds_no_cell_twice_and_refuses_a_repetition_twice(tmp_path):
    cell = a_cell()
    for index in range(2):
        with an_open_store(tmp_path, cell) as store:
            store.append(a_sample(cell, index))
            with pytest.raises(AssertionError):
                store.append(a_sample(cell, index))
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert kinds == ["environment", "experiment", "cell", "left_out", "sample", "sample"]


def test_a_killed_writer_loses_at_most_the_line_it_was_writing(tmp_path):
    code = """
cell = t.a_cell()
store = t.an_open_store(folder, cell)
for index in range(len(store.samples(cell.id)), 10**6):
    store.append(t.a_sample(cell, index))
    print(index, flush=True)
"""
    for _ in range(3):
        writer = child(code, tmp_path)
        for _ in range(20):
            acknowledged = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0].split()
        acknowledged = int(rest[-1]) if rest else acknowledged
        with (tmp_path / "records.jsonl").open("ab") as file:
            file.write(b'{"kind": "sample", "cell_id": "ab')
        with an_open_store(tmp_path) as store:
            indices = [s.index for s in store.samples(a_cell().id)]
        assert indices == list(range(len(indices)))
        assert len(indices) in (acknowledged + 1, acknowledged + 2)
        assert (tmp_path / "records.jsonl").read_bytes().endswith(b"}\n")


def test_a_reader_passes_over_a_line_still_being_written(tmp_path):
    with an_open_store(tmp_path) as store:
        store.append(a_sample(a_cell(), 0))
        before = read_run(tmp_path)
        with (tmp_path / "records.jsonl").open("ab") as file:
            file.write(b'{"kind"')
        assert read_run(tmp_path) == before


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"kind": "sample", "cell\n', "not a JSON object"),
        (b"[]\n", "not a JSON object"),
        (b"[" * 100_000 + b"\n", "not a JSON object"),
        (b'{"kind": ' + b"9" * 5000 + b"}\n", "99999999999999999999 is not a number"),
        (b'{"kind": "status", "n": NaN}\n', "NaN is not a number"),
        (b'{"kind": "status", "n": -1e51}\n', "-1e51 is not a number"),
        (b'{"kind": "status", "n": 1e400}\n', "1e400 is not a number"),
        (b'{"kind": "status"}\n', "not a record as dlmbench writes it"),
        (b'{"kind": "song"}\n', "unknown kind of record 'song'"),
        (b'{"kind": "status", "cell_id": "?", "status": "ok"}\n', "cell \\? is not on record"),
        (b'{"kind": "experiment", "name": "x", "schema_version": 99}\n', "schema version 99"),
    ],
)
def test_a_broken_line_in_the_middle_is_named(tmp_path, line, reason):
    with an_open_store(tmp_path):
        pass
    with (tmp_path / "records.jsonl").open("ab") as file:
        file.write(line + b'{"kind": "left_out", "label": "a", "reason": "b"}\n')
    for attempt in (read_run, an_open_store):
        with pytest.raises(BenchError, match=rf"records\.jsonl, line 5: {reason}"):
            attempt(tmp_path)


@pytest.mark.parametrize("seconds", [0, -0.01, 1e-320, 1e30])
@pytest.mark.parametrize("name", ["latency_s", "wall_s"])
def test_a_time_that_no_clock_can_have_measured_is_refused(tmp_path, name, seconds):
    with an_open_store(tmp_path) as store:
        store.append(a_sample(a_cell(), 0))
    path = tmp_path / "records.jsonl"
    *lines, last = path.read_text().splitlines()
    path.write_text("\n".join([*lines, json.dumps(json.loads(last) | {name: seconds})]) + "\n")
    with pytest.raises(BenchError, match=rf"line {len(lines) + 1}: not a record as dlmbench writes it .*{name}"):
        read_run(tmp_path)


def test_a_score_that_is_not_a_number_is_not_taken_for_one_that_is_missing(tmp_path):
    (tmp_path / "scores.jsonl").write_text('{"cell_id": "a", "metric": "m", "prompt_index": 0, "total": NaN}\n')
    with pytest.raises(BenchError, match="line 1: NaN is not a number"):
        read_text_results(tmp_path)


def test_a_cell_whose_id_no_longer_fits_its_content_is_not_mistaken_for_another(tmp_path):
    with an_open_store(tmp_path):
        pass
    path = tmp_path / "records.jsonl"
    path.write_text(path.read_text().replace('"batch_size": 2', '"batch_size": 3'))
    with pytest.raises(BenchError, match="another version"):
        read_run(tmp_path)


CHECKPOINT = replace(a_cell().model, weights="pretrained", content="c0ffee")


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "/elsewhere", "revision": None},
        {"key": "renamed"},
        {"role": "baseline"},
        {"key": "renamed", "role": "baseline", "source": "org/name", "revision": "main"},
    ],
)
def test_a_moved_or_renamed_model_resumes_and_is_recorded_under_its_new_name(tmp_path, changes):
    first, second = (a_cell(model=CHECKPOINT, batch_size=b) for b in (1, 2))
    with an_open_store(tmp_path, first) as store:
        store.add_plan(Plan((second,)))
        store.append(a_sample(first, 0))
    model = replace(CHECKPOINT, **changes)
    cell = replace(first, model=model)
    assert cell.id == first.id
    assert cell.quality_key == first.quality_key
    with Store.open(tmp_path, ENVIRONMENT, "study", Plan((cell,))) as store:
        store.append(a_sample(cell, 1))
    run = read_run(tmp_path)
    assert run.cells == (cell, replace(second, model=model)), "also cells that are not part of this plan"
    assert [s.index for s in run.results[0].samples] == [0, 1]
    before = (tmp_path / "records.jsonl").read_bytes()
    Store.open(tmp_path, ENVIRONMENT, "study", Plan((cell,))).close()
    assert (tmp_path / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({}, "content: 'c0ffee' on record, 'decade' now"),
        ({"key": "renamed"}, "content: 'c0ffee' on record, 'decade' now"),
        ({"source": "/other"}, "source: 'models/llada' on record, '/other' now; content: 'c0ffee' on"),
        ({"weights": "random"}, "weights: 'pretrained' on record, 'random' now; content: 'c0ffee' on"),
    ],
)
def test_another_checkpoint_in_the_place_of_a_recorded_one_is_refused(tmp_path, changes, differs):
    with an_open_store(tmp_path, a_cell(model=CHECKPOINT)) as store:
        store.append(a_sample(a_cell(model=CHECKPOINT), 0))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    cell = a_cell(model=replace(CHECKPOINT, content="decade", **changes), batch_size=4)
    with pytest.raises(BenchError) as caught:
        Store.open(tmp_path, ENVIRONMENT, "study", Plan((cell,)))
    assert f"model {cell.model.key} is a different checkpoint than model llada in {tmp_path} ({differs}" in str(
        caught.value
    )
    assert "--output-dir" in caught.value.hint
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_further_model_joins_a_run(tmp_path):
    an_open_store(tmp_path, a_cell(model=CHECKPOINT)).close()
    others = (
        replace(CHECKPOINT, key="other", source="/other", content="decade"),
        replace(CHECKPOINT, key="older", revision="v1", content="facade"),
        replace(CHECKPOINT, key="drawn", weights="random", content="accede"),
    )
    Store.open(tmp_path, ENVIRONMENT, "study", Plan(tuple(a_cell(model=m) for m in others))).close()
    assert len(read_run(tmp_path).cells) == 4


@pytest.mark.parametrize("name", ["h200-native", "h200-random"])
def test_a_folder_of_schema_version_1_is_read_and_scored_but_not_resumed(tmp_path, name):
    folder = tmp_path / name
    shutil.copytree(STUDY / name, folder, ignore=shutil.ignore_patterns("figures"))
    run = read_run(folder)
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert [c.id for c in run.cells] == [line["id"] for line in lines if line["kind"] == "cell"]
    assert all(r.samples and r.environment_id for r in run.results)
    assert sum(r.order is not None for r in run.results) == sum(line["kind"] == "order" for line in lines)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}
    with pytest.raises(BenchError, match="written by an earlier version of dlmbench and cannot be resumed") as caught:
        Store.open(folder, run.environment, run.name, Plan(run.cells))
    assert "report, analyze, compare and score still read this one" in caught.value.hint
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"} == before
    with Store.open(folder, run.environment, run.name) as store:
        store.add_text_scores([TextScore(run.cells[0].id, "m", 0, 1.0, 4.0)])
    again = read_run(folder)
    assert (again.cells, again.results) == (run.cells, run.results)
    assert len(again.text_scores) == 1


def test_energy_of_schema_version_2_was_of_one_generation(tmp_path):
    cell = a_cell()
    with an_open_store(tmp_path, cell) as store:
        store.append(EnergyWindow(cell.id, 1, 3, 0.6, 12.5))
    path = tmp_path / "records.jsonl"
    old = path.read_text().replace('"schema_version": 3', '"schema_version": 2').replace("energy_window", "energy")
    path.write_text(old)
    (window,) = read_run(tmp_path).results[0].energy
    assert (window.generation_j, window.energy_j, window.refreshes) == (12.5, 37.5, None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"rounds": 2, "fresh_process_per_round": False}, {"processes": 1, "rounds": 2}),
        ({"rounds": 3, "fresh_process_per_round": True}, {"processes": 3, "rounds": 1}),
        ({"rounds": 2, "processes": 5}, {"processes": 5, "rounds": 2}),
    ],
)
def test_a_recorded_protocol_says_how_many_processes_there_were(old, new):
    assert recorded_protocol(old) == ProtocolSettings(**new)


def test_scores_of_schema_version_1_are_read(tmp_path):
    cell = a_cell()
    score = Score(cell.id, "m", 1.0, 1.0, 1.0, 0.0, 3, "nats", False, unscored=(UnscoredText(3, "empty text"),))
    with an_open_store(tmp_path, cell) as store:
        store.write_scores([score])
    path = tmp_path / "quality_metrics.json"
    path.write_text(path.read_text().replace('"unscored"', '"not_scored"'))
    assert read_run(tmp_path).scores == (score,)


def test_of_two_processes_one_writes_and_a_killed_one_leaves_no_lock(tmp_path):
    code = """
import time
while time.time() < float(sys.argv[3]): pass
try:
    store = t.Store.open(folder, t.ENVIRONMENT, "study")
except t.BenchError as error:
    print("refused:", error.message, flush=True)
else:
    print("open", flush=True)
    time.sleep(60)
"""
    start = time.time() + 1.0
    racers = [child(code, tmp_path, start) for _ in range(2)]
    try:
        answers = sorted(r.stdout.readline().strip() for r in racers)
        assert answers[0] == "open"
        assert answers[1].startswith("refused: another run is writing to")
        with pytest.raises(BenchError, match="another run is writing"):
            an_open_store(tmp_path)
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    an_open_store(tmp_path).close()


def test_a_disk_that_fills_up_is_said_so_and_loses_nothing_written_before(tmp_path):
    # A limit on the size of files is met in mid write, as a full disk is: part of the line, then an error.
    code = """
import resource
cell = t.a_cell()
store = t.an_open_store(folder, cell)
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
for index in range(1000):
    try:
        store.append(t.a_sample(cell, index))
    except t.BenchError as error:
        print(index, error, flush=True)
        break
"""
    writer = child(code, tmp_path)
    out, err = writer.communicate(timeout=60)
    assert writer.returncode == 0, err
    index, message = out.split(" ", 1)
    assert int(index) > 3
    assert "disk is full" in message
    assert "resume" in message
    assert (tmp_path / "records.jsonl").read_bytes().endswith(b"}\n")
    with an_open_store(tmp_path) as store:
        assert [s.index for s in store.samples(a_cell().id)] == list(range(int(index)))
        store.append(a_sample(a_cell(), int(index)))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_enospc_in_one_log_leaves_the_others_alone(tmp_path):
    with an_open_store(tmp_path) as store:
        (tmp_path / "generations.jsonl").unlink()
        (tmp_path / "generations.jsonl").symlink_to("/dev/full")
        with pytest.raises(BenchError, match="disk is full"):
            store.add_generations([StoredGeneration(a_cell().id, 0, "h", (1,), None, 1, None, None)])
        store.append(a_sample(a_cell(), 0))
    assert len(read_run(tmp_path).results[0].samples) == 1


def test_a_view_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    with an_open_store(tmp_path) as store:
        store.append(a_sample(a_cell(), 0))
        store.write_views()
        before = (tmp_path / "raw_metrics.csv").read_text()
        store.append(a_sample(a_cell(), 1))

        def full(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(BenchError, match="disk is full"):
            store.write_views()
        monkeypatch.undo()
    assert (tmp_path / "raw_metrics.csv").read_text() == before
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))


def test_a_folder_that_vanishes_is_noticed_at_the_next_record(tmp_path):
    folder = tmp_path / "run"
    with an_open_store(folder) as store:
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(BenchError, match="could not be written: No such file"):
            store.append(a_sample(a_cell(), 0))


def test_a_folder_belongs_to_one_environment(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    an_open_store(tmp_path).close()
    other = replace(ENVIRONMENT, device="GPU B", cpu_threads=8, host="elsewhere")
    with pytest.raises(BenchError) as caught:
        an_open_store(tmp_path, environment=other)
    assert "device: 'GPU A' on record, 'GPU B' now; cpu_threads: 2 on record, 8 now" in caught.value.message
    assert "host" not in caught.value.message
    assert "--output-dir" in caught.value.hint
    an_open_store(tmp_path, environment=replace(ENVIRONMENT, host="elsewhere")).close()
    assert read_run(tmp_path).environment.host == "elsewhere"


def test_a_run_before_its_first_record_is_not_called_another_folder(tmp_path):
    (tmp_path / ".lock").touch()
    with pytest.raises(BenchError, match=r"nothing is on record in .* yet"):
        read_run(tmp_path)


def test_a_folder_is_being_written_as_long_as_its_store_is_open(tmp_path):
    assert not is_being_written(tmp_path)
    with an_open_store(tmp_path):
        assert is_being_written(tmp_path)
    assert not is_being_written(tmp_path)


def test_a_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BenchError, match="is not a folder"):
            an_open_store(path)
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(BenchError, match="could not be written: Permission denied"):
            an_open_store(tmp_path / "closed")
    with pytest.raises(BenchError, match="is not a run folder"):
        read_run(tmp_path)


def test_the_header_only_ever_grows_at_its_end(tmp_path):
    an_open_store(tmp_path, a_cell(knobs=(("a_knob_of_a_plugin_since_gone", 1),))).close()
    with Store.open(tmp_path, ENVIRONMENT, "study"):
        header = (tmp_path / "raw_metrics.csv").read_text().splitlines()[0].split(",")
    golden = GOLDEN.read_text().strip().split(",")
    assert header[: len(FIXED_COLUMNS)] == golden == list(FIXED_COLUMNS)
    knobs = header[len(FIXED_COLUMNS) :]
    assert knobs == sorted(knobs)
    assert {"a_knob_of_a_plugin_since_gone", "steps", *registry.knob_names()} == set(knobs)


def test_a_row_of_the_csv_to_the_digit(tmp_path):
    cell = a_cell(key="=cmd()")
    failed = a_cell(key="other")
    pending = a_cell(key="pending")
    with an_open_store(tmp_path, cell) as store:
        store.add_plan(Plan((failed, pending)))
        store.append(a_sample(cell, 0, is_warmup=True))
        store.append(a_sample(cell, 0, useful_tokens=None, energy_j=0.0))
        store.append(MemoryPass(cell.id, 4242, "cuda", peak_reserved_bytes=64, idle_power_w=70.0))
        store.append(TracedPass(cell.id, 4242, None, None, None, None, None, 0.25, 0.1))
        store.append(CellStatus(failed.id, "oom", "-1 byte free"))
        store.write_views()
    warmup, row, lost = rows_of(tmp_path)
    assert (warmup["is_warmup"], row["is_warmup"]) == ("true", "false")
    expected = {
        "model": "'=cmd()", "weights": "random", "steps": "8", "batch_size": "2", "sequence_length": "20",
        "new_tokens": "4", "latency_s": "0.5", "throughput_tokens_per_s": "16.0", "useful_tokens_per_s": "",
        "output_bytes_per_s": "40.0", "tokens_per_forward": "2.0", "token_positions": "40", "energy_j": "0.0",
        "peak_reserved_bytes": "64", "peak_allocated_bytes": "", "first_block_s": "0.25", "inter_token_s": "",
        "idle_power_w": "70.0", "process_id": str(os.getpid()), "environment_id": ENVIRONMENT.id, "status": "",
        "cell_id": cell.id, "wasted_positions": "0",
    }  # fmt: skip
    assert {k: row[k] for k in expected} == expected
    assert (lost["model"], lost["index"], lost["latency_s"], lost["status"]) == ("other", "", "", "oom")
    assert lost["reason"] == "'-1 byte free"


def test_the_time_between_tokens_is_of_the_latency_beside_it(tmp_path):
    """Not of the traced generation, whose total may be another: 0.9 s here, where the timed one took 0.5."""
    cell = a_cell()
    with an_open_store(tmp_path, cell) as store:
        store.append(a_sample(cell, 0))
        store.append(TracedPass(cell.id, 1, 0.2, 0.2, 0.233, 0.1, 0.1, None, None, 0.9))
        store.write_views()
    (row,) = rows_of(tmp_path)
    assert float(row["inter_token_s"]) == pytest.approx((0.5 - 0.2) / 3)


def test_energy_of_a_token_is_gross_and_net_and_of_useful_ones_where_texts_are_real(tmp_path):
    real, random = a_cell(), a_cell(key="other")
    with an_open_store(tmp_path, real) as store:
        store.add_plan(Plan((random,)))
        for cell, useful in ((real, 4), (random, None)):
            store.append(a_sample(cell, 0, useful_tokens=useful))
            store.append(MemoryPass(cell.id, 1, "cuda", idle_power_w=50.0))
            # 80 and 120 J of a generation that takes 0.5 s, of which 25 J would have been drawn without it.
            store.append(EnergyWindow(cell.id, 1, 8, 4.0, 640.0, 40))
            store.append(EnergyWindow(cell.id, 2, 8, 4.0, 960.0, 40))
        store.write_views()
    first, second = rows_of(tmp_path)
    names = ("energy_pass_j", "energy_per_token_j", "net_energy_per_token_j")
    assert [first[n] for n in names] == [second[n] for n in names] == ["100.0", "12.5", "9.375"]
    names = ("energy_per_useful_token_j", "net_energy_per_useful_token_j")
    assert [first[n] for n in names] == ["25.0", "18.75"]
    assert [second[n] for n in names] == ["", ""]


def test_quality_metrics_are_strict_json_with_the_cell_spelt_out(tmp_path):
    cell = a_cell()
    score = Score(cell.id, "judge_nll", 2.5, 2.25, math.inf, math.nan, 3, "nats/token", False, judge="j")
    with an_open_store(tmp_path, cell) as store:
        store.write_scores([score])

    def refuse(word):
        raise AssertionError(word)

    document = json.loads((tmp_path / "quality_metrics.json").read_text(), parse_constant=refuse)
    assert document["schema_version"] == 3
    assert document["environment"]["device"] == "GPU A"
    (entry,) = document["scores"]
    expected = {
        "cell_id": cell.id, "model": "llada", "role": "target", "sampler": "masked_diffusion", "steps": 8,
        "batch_size": 2, "prompt_tokens": 16, "new_tokens": 4, "metric": "judge_nll", "value": 2.5, "low": 2.25,
        "high": None, "stderr": None, "n": 3, "unit": "nats/token", "higher_is_better": False, "judge": "j", "note": "",
    }  # fmt: skip
    assert {k: entry[k] for k in expected} == expected
    with Store.open(tmp_path, ENVIRONMENT, "study"):
        assert json.loads((tmp_path / "quality_metrics.json").read_text()) == document
    (tmp_path / "quality_metrics.json").write_text("{")
    with pytest.raises(BenchError, match="is not the file that dlmbench wrote"):
        read_run(tmp_path)
