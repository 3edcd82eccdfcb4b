"""A whole run on a GPU through the command line: both engines, the embedded pair, energy and GPU memory."""

from __future__ import annotations

import csv

import pytest

torch = pytest.importorskip("torch")

from dlmbench.cli import main  # noqa: E402
from support.experiments import embedded_pair  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
PROTOCOL = "{warmup: 1, pilot: 5, max_repeats: 10, max_time_s: 5, rounds: 1}"
METRICS = "[likelihood, oracle_log_prob, repetition]"
CONFIG = embedded_pair(engine="[hf, native]", protocol=PROTOCOL, metrics=METRICS)


def test_both_engines_write_the_same_texts_and_the_record_holds_energy(tmp_path):
    (tmp_path / "small.yaml").write_text(CONFIG)
    output = tmp_path / "raw_data"
    main(["run", "--config", str(tmp_path / "small.yaml"), "--output_dir", str(output)])
    with (output / "raw_metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["is_warmup"] == "false"]
    assert {row["status"] for row in rows} == {"ok"}
    assert len({row["cell_id"] for row in rows}) == 6
    for row in rows:
        assert row["clock"] == "cuda"
        # Each generation is far shorter than half a second, so energy is measured over a series of them only.
        assert row["energy_j"] == ""
        assert float(row["energy_pass_j"]) > 0
        assert 0 < float(row["idle_power_w"]) < 1000
        assert int(row["peak_reserved_bytes"]) >= int(row["peak_allocated_bytes"]) > 0
    scores = (output / "quality_metrics.json").read_text()
    assert "oracle_log_prob" in scores
