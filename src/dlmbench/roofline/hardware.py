"""Devices and their data-sheet rates, found by our name or by the name a driver reports.

Rates are dense (no structured sparsity), with 32-bit accumulation (half of a GeForce card's printed rate) and at the
published boost clock, so a floor made of them lies below measurements; GeForce cards may clock higher and exceed their
rate slightly. The rows are in devices.json; users add their own from YAML, with measured ceilings where they have them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path

from dlmbench.errors import BenchError, did_you_mean


@dataclass(frozen=True)
class Hardware:
    """One device.

    bf16_flops: dense matrix FLOP/s with 32-bit accumulation, bfloat16 or float16. fp32_flops: FLOP/s without matrix
    units. bandwidth: of the device memory, bytes/s. memory_bytes: as sold, decimal. cache_bytes: the last-level cache.
    source, date: the document these are from. aliases: other names, such as the driver's.
    """

    name: str
    bf16_flops: float
    fp32_flops: float
    bandwidth: float
    memory_bytes: float
    cache_bytes: float
    source: str
    date: str
    aliases: tuple[str, ...] = ()

    def matrix_flops(self, precision: str) -> float:
        """Peak FLOP/s of a matrix product in `precision` (float32 is taken without TF32, torch's default)."""
        return self.fp32_flops if precision == "float32" else self.bf16_flops


_MAKERS = r"\b(nvidia|amd|geforce|radeon|instinct)\b"


def _plain(name: str) -> str:
    # SLURM writes names with underscores: nvidia_a100-sxm4-80gb, rtx_a6000.
    return re.sub(r"[^a-z0-9]", "", re.sub(_MAKERS, "", name.lower().replace("_", " ")))


def variants(name: str, rows: Iterable[Hardware] = ()) -> tuple[str, ...]:
    """The names that contain `name`: an A100 may be one of several."""
    return tuple(r.name for r in (*ROWS, *rows) if _plain(name) and _plain(name) in _plain(r.name))


def of_device(name: str, rows: Iterable[Hardware] = ()) -> Hardware | None:
    """The row of a device name as torch or NVML reports it; None for an unknown device or a MIG slice."""
    # Later rows win, so that a user's row can replace a built-in one.
    return {_plain(key): row for row in (*ROWS, *rows) for key in (row.name, *row.aliases)}.get(_plain(name))


def find(name: str, rows: Iterable[Hardware] = ()) -> Hardware:
    """The row called `name`, our name or the driver's; case, spaces and vendor prefixes are ignored.

    Raises:
        BenchError: no such row; the nearest ones.
    """
    rows = tuple(rows)
    row = of_device(name, rows)
    if row is not None:
        return row
    known = [r.name for r in (*ROWS, *rows)]
    if several := variants(name, rows):
        raise BenchError(f"unknown hardware '{name}'", f"Which one: {', '.join(several)}?")
    by_plain = {_plain(k): k for k in known}
    near = [f"Did you mean '{by_plain[k]}'? " for k in get_close_matches(_plain(name), sorted(by_plain), n=1)]
    raise BenchError(f"unknown hardware '{name}'", f"{''.join(near)}Known: {', '.join(known)}")


_NUMBERS = ("bf16_flops", "fp32_flops", "bandwidth", "memory_bytes", "cache_bytes")


def load_rows(path: Path | None) -> tuple[Hardware, ...]:
    """Rows of a YAML file: a list of mappings with the fields of `Hardware` (cache_bytes and aliases may be left out).

    None for no file, hence no rows.

    Raises:
        BenchError: unreadable, or a row with a missing, unknown or impossible field, which is named.
    """
    if path is None:
        return ()
    from dlmbench.experiment.load import read_yaml

    rows = read_yaml(path)
    if not isinstance(rows, list):
        raise BenchError(f"{path} is not a list of devices", "Begin each device with '- name: ...'")
    return tuple(_row(path, number, row) for number, row in enumerate(rows, 1))


def _row(path: Path, number: int, row: object) -> Hardware:
    where, known = f"{path}, device {number}", [f.name for f in fields(Hardware)]
    if not isinstance(row, dict):
        raise BenchError(f"{where} is not a mapping", f"Fields: {', '.join(known)}")
    values = {"cache_bytes": 0.0, "aliases": (), **row}
    for key in values:
        if key not in known:
            raise BenchError(f"{where}: unknown field '{key}'", did_you_mean(str(key), known))
    for key in known:
        if values.get(key) is None:
            raise BenchError(f"{where}: '{key}' is missing", f"Fields: {', '.join(known)}")
    for key in _NUMBERS:
        try:
            values[key] = float(values[key])
        except (TypeError, ValueError):
            raise BenchError(f"{where}: {key} is not a number", "Write it as 312e12, in FLOP/s, B/s or bytes") from None
        if not 0 <= values[key] < float("inf") or (values[key] == 0 and key != "cache_bytes"):
            raise BenchError(f"{where}: {key} must be above 0", "Write it as 312e12, in FLOP/s, B/s or bytes")
    aliases = values.pop("aliases")
    texts = {key: str(values[key]) for key in ("name", "source", "date")}
    return Hardware(**{**values, **texts}, aliases=(aliases,) if isinstance(aliases, str) else tuple(map(str, aliases)))


_DEVICES = Path(__file__).with_name("devices.json")
ROWS = tuple(_row(_DEVICES, n, row) for n, row in enumerate(json.loads(_DEVICES.read_text(encoding="utf-8")), 1))
