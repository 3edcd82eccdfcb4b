"""A run folder is extended along its axes; other prompts, seed or protocol are refused unless that is wanted."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from dlmbench.bench.run import EXPERIMENT, refuse_other_settings
from dlmbench.cli import run as command
from dlmbench.errors import BenchError
from dlmbench.experiment import load
from support.experiments import GOOD
from support.program import fails


@pytest.fixture
def measured(tmp_path):
    """A folder that holds the run of an experiment."""
    path = tmp_path / "config.yaml"
    path.write_text(GOOD)
    experiment = load.load(path)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / EXPERIMENT).write_text(json.dumps(asdict(experiment)))
    return path, folder, experiment


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps": "2"},
        {"batch_size": "2,4"},
        {"seq_len": "16"},
        {"models": "a"},
        {"max_prompts": "1"},
        {"compute_bertscore": True},
    ],
)
def test_axes_and_metrics_extend_it(measured, options):
    path, folder, _ = measured
    refuse_other_settings(folder, load.load(path, load.parse_overrides(**options)))
    refuse_other_settings(folder / "new", load.load(path))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("source: tiny, count", "source: wikitext-103, count", "prompts.source: 'tiny' on record, 'wikitext-103' now"),
        ("count: 2", "count: 2, seed: 5", "prompts.seed: 0 on record, 5 now"),
        ("name: t", "seed: 4\nname: t", "seed: 0 on record, 4 now"),
        ("name: t", "protocol: {processes: 5}\nname: t", "protocol.processes: 3 on record, 5 now"),
    ],
)
def test_other_settings_are_refused_with_what_differs(measured, capsys, old, new, named):
    path, folder, _ = measured
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(BenchError) as caught:
        refuse_other_settings(folder, load.load(path))
    assert named in caught.value.message
    assert "--extend" in caught.value.hint
    fails(capsys, "run", "--config", path, "--output_dir", folder, says=f"{named} ... --extend")


def test_extend_overrides_the_refusal(measured, monkeypatch):
    path, folder, experiment = measured
    reached = []

    def stop(*given: object, **_: object) -> str:
        reached.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr("dlmbench.bench.run.run", stop)
    path.write_text("seed: 4\n" + GOOD)
    for extend in (False, True):
        with pytest.raises(KeyboardInterrupt if extend else BenchError):
            command._run(*command.RunOptions(config=path).load(), folder, extend=extend)
    assert [one[0] for one in reached] == [replace(experiment, seed=4)]
