"""The CSV and the JSON of a run folder, as text made from its records.

A column's name ends in its unit, unknown is empty (CSV) or null (JSON), and everything computed here can be computed
from the other columns as well.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from statistics import fmean
from typing import Any

from dlmbench import registry
from dlmbench.types import SCHEMA_VERSION, Cell, CellResult, Environment, Sample, Score, Unscored

# The knob columns come after these, so that a new plug-in appends columns and moves none.
_COLUMNS = """
    cell_id index is_warmup round model role family weights engine sampler batch_size prompt_tokens new_tokens
    sequence_length precision attention seed prompts status reason clock latency_s wall_s load_s throughput_tokens_per_s
    useful_tokens_per_s output_bytes_per_s tokens_per_forward forwards token_positions attention_pairs
    wasted_positions first_token_s prefill_s inter_token_s inter_token_p50_s inter_token_p95_s first_block_s step_p50_s
    peak_allocated_bytes peak_reserved_bytes device_bytes peak_process_bytes energy_j energy_pass_j
    energy_per_token_j net_energy_per_token_j energy_per_useful_token_j net_energy_per_useful_token_j power_w
    idle_power_w sm_clock_mhz temperature_c throttle other_processes process_id started_at environment_id
    host_busy device_uuid neighbours"""
FIXED_COLUMNS = tuple(_COLUMNS.split())
# What a formula starts with, full-width forms included; spreadsheets skip a leading tab or line break.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def _knob_columns(cells: Iterable[Cell]) -> tuple[str, ...]:
    """Every knob of the installed samplers, and recorded ones whose sampler is no longer installed."""
    names = tuple(sorted({*registry.knob_names(), *(name for cell in cells for name, _ in cell.knobs)}))
    assert not set(names) & set(FIXED_COLUMNS), f"a knob is named like a column: {set(names) & set(FIXED_COLUMNS)}"
    return names


def _per(amount: float | None, divisor: float) -> float | None:
    return None if amount is None or divisor <= 0 else amount / divisor


def _cell_columns(result: CellResult) -> dict[str, Any]:
    """The columns that are equal in all rows of a cell."""
    cell = result.cell
    row = {f.name: getattr(cell, f.name) for f in fields(cell) if f.name in FIXED_COLUMNS and f.name != "model"}
    row |= dict(cell.knobs) | {"cell_id": cell.id, "sequence_length": cell.sequence_length}
    row |= {n: getattr(cell.model, n) for n in ("role", "family", "weights")} | {"model": cell.model.key}
    row |= {"status": result.status, "reason": result.reason, "environment_id": result.environment_id}
    for record in (result.traced, result.memory):
        row |= {k: v for k, v in asdict(record).items() if k in FIXED_COLUMNS} if record else {}
    # The process of a row is that of its sample, not of these passes.
    row.pop("process_id", None)
    return row | _energy_columns(result)


def _energy_columns(result: CellResult) -> dict[str, float | None]:
    """Joules of a generation and of its tokens, on average over the windows; net: without the device's idle power.

    Useful tokens are those up to and with the first end of text; unknown where texts are not real.
    """
    if not result.energy:
        return {}
    generation_j = fmean(window.generation_j for window in result.energy)
    idle_w = result.memory.idle_power_w if result.memory else None
    idle_j = None if idle_w is None else idle_w * fmean(w.region_s / w.repetitions for w in result.energy)
    net_j = None if idle_j is None else generation_j - idle_j
    useful = [s.useful_tokens for s in result.timed]
    tokens = {"token": [s.new_tokens for s in result.timed], "useful_token": [n for n in useful if n is not None]}
    columns: dict[str, float | None] = {"energy_pass_j": generation_j}
    for name, counts in tokens.items():
        each = fmean(counts) if counts and len(counts) == len(result.timed) else 0.0
        columns |= {f"energy_per_{name}_j": _per(generation_j, each), f"net_energy_per_{name}_j": _per(net_j, each)}
    return columns


def _sample_columns(sample: Sample, result: CellResult) -> dict[str, Any]:
    own = {k: v for k, v in vars(sample).items() if k in FIXED_COLUMNS and k != "new_tokens"}
    cell, prefill_s = result.cell, result.traced.prefill_s if result.traced else None
    decoding_s = None if prefill_s is None else sample.latency_s - prefill_s
    return own | {
        # Of this row's latency, so that the columns of a row agree.
        "inter_token_s": _per(decoding_s, cell.new_tokens - 1),
        "throughput_tokens_per_s": _per(sample.new_tokens, sample.latency_s),
        "useful_tokens_per_s": _per(sample.useful_tokens, sample.latency_s),
        "output_bytes_per_s": _per(sample.output_bytes, sample.latency_s),
        # Per row of the batch: 1 for autoregressive decoding at any batch size.
        "tokens_per_forward": _per(sample.new_tokens / cell.batch_size, sample.forwards),
        "token_positions": sample.positions,
    }


def spreadsheet_field(value: object) -> object:
    """Text that a spreadsheet would run as a formula gets a leading apostrophe; anything else is unchanged."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def _csv_field(value: object) -> object:
    """Booleans are written as in JSON."""
    return str(value).lower() if isinstance(value, bool) else spreadsheet_field(value)


def raw_metrics(results: Sequence[CellResult]) -> str:
    """The CSV: one row per repetition, and one for each cell that ended without any."""
    rows = []
    for result in results:
        common = _cell_columns(result)
        rows += [common | _sample_columns(s, result) for s in result.samples]
        if not result.samples and result.status is not None:
            rows.append(common)
    return csv_text(FIXED_COLUMNS + _knob_columns(r.cell for r in results), rows)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Rows as CSV; a column that a row lacks, or has as None, is empty."""
    out = io.StringIO()
    table = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows({name: _csv_field(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def quality_metrics(
    environment: Environment, cells: Mapping[str, Cell], scores: Iterable[Score], unscored: Iterable[Unscored] = ()
) -> str:
    """The JSON of aggregated scores, each with a description of its cell, and of cells without a score, with why."""
    knob_names = _knob_columns(cells.values())

    def named(entry: Score | Unscored) -> dict[str, Any]:
        cell = cells[entry.cell_id]
        # Later keys win: a knob of a plug-in cannot hide a field of the score.
        about: dict[str, Any] = {name: cell.knob(name) for name in ("steps", *knob_names)}
        about |= {"model": cell.model.key, "role": cell.model.role, "sampler": cell.sampler}
        about |= {n: getattr(cell, n) for n in ("batch_size", "prompt_tokens", "new_tokens")}
        return about | asdict(entry)

    document = {
        "schema_version": SCHEMA_VERSION,
        "environment": {**asdict(environment), "id": environment.id},
        "scores": [named(score) for score in scores],
        "unscored_cells": [named(missing) for missing in unscored],
    }
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
