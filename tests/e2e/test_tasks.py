"""Task lists and lm-eval's own command line as a user runs them, on tasks of all three kinds."""

from __future__ import annotations

import csv
import functools
import json
import math
from pathlib import Path

import pytest

from support import program
from support.experiments import embedded_pair

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
CONFIG = embedded_pair(steps="[1, 8]")


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """A command in this process, where the heavy imports are made once: (exit code, stdout, stderr)."""
    import datasets

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "small.yaml").write_text(CONFIG)

    return functools.partial(program.run, capsys)


def test_a_task_list_over_the_steps_and_its_resumption(run, tmp_path):
    output = tmp_path / "raw_data"
    common = ["tasks", "--config", tmp_path / "small.yaml", "--include-path", "config/tasks", "--limit", 4]
    code, _, talk = run(*common, "--output-dir", output, "--tasks", "tiny_rolling", "--steps", "8")
    assert code == 0, talk
    before = json.loads((output / "tasks.json").read_text())
    assert len(before["runs"]) == 2

    names = "tiny_choice,tiny_rolling,tiny_generate"
    code, shown, talk = run(*common, "--output-dir", output, "--tasks", names)
    assert code == 0, talk
    after = json.loads((output / "tasks.json").read_text())
    assert after["runs"][:2] == before["runs"]
    assert len(after["runs"]) == 9  # three tasks, the baseline and two step counts
    assert "1/7" in talk, "what was finished must not be run again"
    assert {run_["status"] for run_ in after["runs"]} == {"ok"}

    documents = [json.loads(line) for line in (output / "task_samples.jsonl").read_text().splitlines()]
    assert len(documents) == 9 * 4
    for score in after["scores"]:
        own = [d["values"][score["metric"]] for d in documents if d["run_id"] == score["run_id"]]
        assert score["n"] == len(own) == 4
        if score["metric"] == "bits_per_byte":
            bits = -sum(nats for nats, _ in own) / sum(count for _, count in own) / math.log(2)
            assert score["value"] == pytest.approx(bits)
        elif score["metric"] in ("acc", "exact_match"):
            mean = sum(own) / 4
            assert score["value"] == pytest.approx(mean)
            assert score["stderr"] == pytest.approx(math.sqrt(mean * (1 - mean) / 3))  # lm-eval's, by hand
    # By hand once more, from what the models answered.
    chosen = {(d["run_id"], d["doc_id"]): d for d in documents}
    for document in chosen.values():
        if document["task"] == "tiny_choice":
            nats = [answer[0] for answer in document["answers"]]
            assert document["values"]["acc"] == (nats.index(max(nats)) == int(document["target"]))
        if document["task"] == "tiny_generate":
            assert document["values"]["exact_match"] == (document["answers"][0] == document["target"])
    bits = {s["steps"]: s["value"] for s in after["scores"] if s["metric"] == "bits_per_byte"}
    assert bits[1] > bits[8] > bits[None]  # more steps, better; the baseline best

    by_key = {(s["run_id"], s["metric"]): s["value"] for s in after["scores"]}
    assert len(after["differences"]) == 2 * 4
    for d in after["differences"]:
        expected = by_key[d["run_id"], d["metric"]] - by_key[d["baseline_id"], d["metric"]]
        assert d["value"] == pytest.approx(expected)
        assert d["low"] <= d["value"] <= d["high"]
    with (output / "tasks.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(after["scores"])

    code, again, talk = run(*common, "--output-dir", output, "--tasks", names)
    assert (code, again) == (0, shown)
    assert "1/" not in talk


def test_a_process_that_dies_or_runs_out_of_memory_costs_its_run_and_no_other(run, tmp_path, monkeypatch):
    from dlmbench.bench.worker import Failed, Worker

    output = tmp_path / "raw_data"
    given = ["tasks", "--config", tmp_path / "small.yaml", "--include-path", "config/tasks", "--limit", 2]
    given += ["--output-dir", output, "--tasks", "tiny_rolling"]
    ask, requests = Worker.ask, []

    def disturbed(worker, request):
        requests.append(request)
        if len(requests) == 2:  # the target at its first step count
            worker.start()
            worker.wait()
            worker._process.kill()
        if len(requests) == 3:
            return iter([Failed("oom", "out of memory")])
        return ask(worker, request)

    monkeypatch.setattr(Worker, "ask", disturbed)
    code, _, talk = run(*given)
    assert code == 2
    assert "2 of 3 runs failed" in talk
    document = json.loads((output / "tasks.json").read_text())
    assert [r["status"] for r in document["runs"]] == ["ok", "error", "oom"]
    assert "the model's process died: signal 9 (SIGKILL)" in document["runs"][1]["reason"]
    assert {s["model"] for s in document["scores"]} == {"ar"}

    monkeypatch.setattr(Worker, "ask", ask)
    code, _, talk = run(*given)
    assert code == 0, talk
    document = json.loads((output / "tasks.json").read_text())
    assert [r["status"] for r in document["runs"]] == ["ok", "ok", "ok"]


def test_lm_evals_own_command_line_knows_the_model():
    arguments = ["lm-eval", "run", "--model", "dlmbench", "--limit", "3"]
    arguments += ["--include-path", "config/tasks", "--tasks", "tiny_generate,tiny_choice", "--batch_size", "4"]
    arguments += ["--model-args", "pretrained=embedded:llada,sampler=masked_diffusion,steps=4,likelihood=sampler"]
    done = program.start(*arguments, timeout=280, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "exact_match" in done.stdout
    assert "tiny_choice" in done.stdout


def test_an_unknown_task_names_the_nearest(run, tmp_path):
    given = ["--output-dir", tmp_path / "other", "--config", tmp_path / "small.yaml"]
    code, _, talk = run("tasks", *given, "--include-path", "config/tasks", "--tasks", "tiny_chioce")
    assert code == 2
    assert "Did you mean 'tiny_choice'" in talk
    assert not (tmp_path / "other").exists()
