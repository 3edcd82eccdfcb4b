"""A run in which everything a user or a model may write is an attack on the page or on a spreadsheet."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from dlmbench.types import LeftOut, ProtocolSettings, Run, StoredGeneration
from support.synthetic_run import LLADA, LLAMA, failed, target_cell, tiny_run

SCRIPT = "<script>window.attacked = 'script'</script>"
IMAGE = "<img src=x onerror=\"window.attacked = 'image'\">"
BREAK_OUT = "</style></script><!--</textarea><svg onload=\"window.attacked='svg'\">"
LINK = "<a href=\"javascript:window.attacked='link'\">javascript:alert(1)</a> & \u2028 {{ 7 * 7 }}"
FORMULA = "=cmd|' /C calc'!A0"
ATTACKS = (SCRIPT, IMAGE, BREAK_OUT, LINK, FORMULA)


def hostile_run(folder: Path) -> Run:
    """The run, with its texts and experiment file in `folder`."""
    run = tiny_run(batches=(1, 8), blocks=(None,), steps=(4, 16), repetitions=5, prompts=8)
    keys = {LLAMA.key: FORMULA, LLADA.key: f"{SCRIPT}{IMAGE}"}

    def renamed(cell):
        return replace(cell, model=replace(cell.model, key=keys[cell.model.key]))

    ids = {r.cell.id: renamed(r.cell).id for r in run.results}
    results = []
    for r in run.results:
        cell = renamed(r.cell)
        samples = tuple(replace(s, cell_id=cell.id) for s in r.samples)
        results.append(replace(r, cell=cell, samples=samples))
    lost = renamed(target_cell(16, None, 8)).id
    results = [failed(r.cell, "error", f"{BREAK_OUT}\n{FORMULA}") if r.cell.id == lost else r for r in results]
    scores = tuple(replace(s, cell_id=ids[s.cell_id]) for s in run.text_scores)
    words = (LINK, SCRIPT, IMAGE, BREAK_OUT, FORMULA)
    lines = [
        asdict(StoredGeneration(r.cell.id, 0, "h", (1,), words[i % len(words)], 4, None, None))
        for i, r in enumerate(results)
    ]
    (folder / "generations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {
        "description": LINK,
        "protocol": asdict(ProtocolSettings()),
        "prompts": {"source": SCRIPT, "count": 8},
        "metrics": [IMAGE],
    }
    (folder / "experiment.json").write_text(json.dumps(settings))
    return replace(
        run,
        folder=str(folder),
        name=BREAK_OUT,
        cells=tuple(r.cell for r in results),
        left_out=(LeftOut(IMAGE, FORMULA), LeftOut("+1", "@SUM(A1)")),
        results=tuple(results),
        text_scores=scores,
    )
