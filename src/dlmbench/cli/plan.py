"""Predict: `plan` before measuring, `calibrate` after it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from dlmbench.cli.options import (
    AsJson,
    HardwareFile,
    HardwareName,
    PlanOptions,
    Price,
    RunFolder,
    command,
    expand_options,
)
from dlmbench.errors import BenchError

if TYPE_CHECKING:
    from dlmbench.bench.forecast import RunCost
    from dlmbench.roofline.predict import Forecast
    from dlmbench.types import Cell, Plan


@command()
@expand_options
def plan(
    options: PlanOptions,
    hardware: HardwareName = None,
    hardware_file: HardwareFile = None,
    price: Price = None,
    calibration: Annotated[
        Path | None,
        Option(metavar="FILE", help="output of `dlmbench calibrate`, instead of the built-in H200 calibration"),
    ] = None,
    break_even: Annotated[
        bool, Option("--break-even", help="instead of cells, show how many steps take as long as the baseline")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the cells of an experiment and the combinations left out, without running anything.

    With --hardware also the predicted time and memory of each cell and the whole run, and with --price its cost. With
    --break-even the number of diffusion steps that takes as long as the baseline, by length and batch size.

    \b
    Example: dlmbench plan -c config/experiments.yaml --hardware h200 --price 2.5
    """
    from dlmbench.cli import console

    experiment, planned = options.load()
    with console.waiting("predicting ..."):
        forecast = _forecast(planned, hardware, hardware_file, price, calibration, break_even)
    cost = None
    if forecast is not None and not break_even:
        from dlmbench.bench.forecast import run_cost

        cost = run_cost(forecast, experiment.protocol)
    if as_json:
        console.print_json({"experiment": experiment.name, **_record(planned, forecast, price, cost, break_even)})
        return
    out = console.stdout(100)
    if break_even and forecast is not None:
        for part in console.surfaces(forecast.surfaces(), forecast.hardware.name):
            out.print(part, soft_wrap=isinstance(part, str))
    else:
        out.print(console.cells(planned.cells, forecast, price))
    if cost is not None:
        out.print(console.total_cost(cost, price))
    for note in forecast.notes if forecast else ():
        console.log(note)
    if remark := remark_beyond_context(planned, beyond_context(planned)):
        console.log(remark)
    console.left_out(planned)


def beyond_context(planned: Plan) -> dict[str, str]:
    """By id, why a run would not measure cells: their checkpoint knows fewer positions."""
    from dlmbench.bench.generate import cells_beyond_context
    from dlmbench.models.loading import architectures

    known, _ = architectures(dict.fromkeys(c.model for c in planned.cells))
    return cells_beyond_context(planned.cells, known)


def remark_beyond_context(planned: Plan, reasons: Mapping[str, str]) -> str:
    """How many cells are beyond the context of their checkpoint, and the first of them; "" where none is."""
    labels = [f"{c.label} ({reasons[c.id]})" for c in planned.cells if c.id in reasons]
    cells = "1 cell" if len(labels) == 1 else f"{len(labels)} cells"
    return f"{cells} would not be measured: {'; '.join(labels[:3])}" if labels else ""


def _record(
    planned: Plan, forecast: Forecast | None, price: float | None, cost: RunCost | None, break_even: bool
) -> dict[str, Any]:
    """The plan for --json."""
    from dlmbench.cli import console

    record: dict[str, Any] = {"cells": [console.cell_json(cell) for cell in planned.cells]}
    record |= {"left_out": planned.left_out, "hardware": None, "cost": None, "notes": ()}
    if forecast is None:
        return record
    for entry, cell in zip(record["cells"], planned.cells, strict=True):
        entry["predicted"] = _prediction(cell, forecast, price)
    record |= {"hardware": forecast.hardware.name, "notes": forecast.notes}
    if cost is not None:
        money = None if price is None else dict(zip(("low", "high"), cost.money(price), strict=True))
        record["cost"] = {**vars(cost), "price": money}
    if break_even:
        record["break_even"] = forecast.surfaces()
    return record


def _prediction(cell: Cell, forecast: Forecast, price: float | None) -> dict[str, Any]:
    from dlmbench.roofline.predict import per_million_tokens

    expected, tokens = forecast.of(cell), cell.batch_size * cell.new_tokens
    latency_s, between = expected.latency_s, forecast.estimates.get(cell.id)
    return {
        "latency_s": latency_s,
        "low_s": between and between.low_s,
        "high_s": between and between.high_s,
        "floor_s": expected.floor_s,
        "tokens_per_s": tokens / latency_s if latency_s else None,
        "peak_bytes": expected.peak_bytes,
        "fits": forecast.fits(cell),
        "per_million_tokens": per_million_tokens(latency_s, tokens, price) if latency_s and price is not None else None,
    }


def _forecast(
    planned: Plan, name: str | None, file: Path | None, price: float | None, calibration: Path | None, break_even: bool
) -> Forecast | None:
    if name is None:
        needing = {
            "--hardware-file": file,
            "--price": price,
            "--calibration": calibration,
            "--break-even": break_even or None,
        }
        if used := [option for option, value in needing.items() if value is not None]:
            raise BenchError(f"{used[0]} needs a device", "Add --hardware, as in --hardware h200")
        return None
    from dlmbench.analysis.cost import check_price
    from dlmbench.roofline import hardware
    from dlmbench.roofline.predict import predict

    if price is not None:
        if break_even:
            raise BenchError("--price has no effect with --break-even", "Leave one of them out")
        check_price(price)
    device = hardware.find(name, hardware.load_rows(file))
    saved = None
    if calibration is not None:
        from dlmbench.roofline.calibrate import load_calibration

        saved = load_calibration(calibration)
    return predict(planned, device, saved)


@command()
def calibrate(
    run_folder: RunFolder,
    hardware: Annotated[
        str | None, Option(metavar="NAME", help="device on which the run was measured; default: as recorded")
    ] = None,
    hardware_file: HardwareFile = None,
    output: Annotated[
        Path | None, Option("--output", metavar="FILE", help="default: calibration.json in the run folder")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit the cost model to a finished run, for `dlmbench plan --calibration`.

    Also shows the error of its predictions on held-out cells, and each measured cell with its roofline floor.

    \b
    Example: dlmbench calibrate results/raw_data
    """
    from dlmbench.cli import console
    from dlmbench.results import read_run
    from dlmbench.results.journal import replace_file
    from dlmbench.roofline.calibrate import calibrate_run
    from dlmbench.roofline.hardware import load_rows

    with console.waiting(f"fitting the cost model to {run_folder} ..."):
        calibrated = calibrate_run(read_run(run_folder), hardware, load_rows(hardware_file))
    path = run_folder / "calibration.json" if output is None else output
    if path.is_dir() or not path.parent.is_dir():
        raise BenchError(f"{path} cannot be written as a file", "Choose a file in an existing folder with --output")
    replace_file(path, calibrated.to_json())
    if as_json:
        cells = [
            {"id": b.cell.id, "latency_s": b.latency_s, "floor_s": b.floor_s, "mfu": b.mfu, "mbu": b.mbu}
            for b in calibrated.bounds
        ]
        names = ("calibrations", "notes", "findings")
        record = {name: getattr(calibrated, name) for name in names}
        console.print_json({"file": path, "hardware": calibrated.hardware.name, "cells": cells, **record})
        return
    out = console.stdout()
    out.print(console.calibrations(calibrated.calibrations, calibrated.hardware.name))
    out.print(console.bounds(calibrated.bounds))
    for note in calibrated.notes:
        out.print(note, soft_wrap=True)
    console.findings(calibrated.findings)
    print(path)
