"""Predict: `plan` before measuring, `calibrate` after it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from dlmbench.cli.options import HardwareFile, HardwareName, PlanOptions, Price, RunFolder, command, expand_options
from dlmbench.errors import BenchError

if TYPE_CHECKING:
    from dlmbench.roofline.predict import Forecast
    from dlmbench.types import Plan


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
) -> None:
    """Show the cells of an experiment and the combinations left out, without running anything.

    With --hardware also the predicted time and memory of each cell and the whole run, and with --price its cost. With
    --break-even the number of diffusion steps that takes as long as the baseline, by length and batch size.

    \b
    Example: dlmbench plan -c config/experiments.yaml --hardware h200 --price 2.5
    """
    from dlmbench.cli import console

    experiment, planned = options.load()
    forecast = _forecast(planned, hardware, hardware_file, price, calibration, break_even)
    out = console.stdout(200)
    if break_even and forecast is not None:
        for part in console.surfaces(forecast.surfaces(), forecast.hardware.name):
            out.print(part, soft_wrap=isinstance(part, str))
    else:
        out.print(console.cells(planned.cells, forecast, price))
    if forecast is not None:
        if not break_even:
            from dlmbench.bench.forecast import run_cost

            print(console.total_cost(run_cost(forecast, experiment.protocol), price))
        for note in forecast.notes:
            console.log(note)
    console.left_out(planned.left_out)


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

    calibrated = calibrate_run(read_run(run_folder), hardware, load_rows(hardware_file))
    path = run_folder / "calibration.json" if output is None else output
    if path.is_dir() or not path.parent.is_dir():
        raise BenchError(f"{path} cannot be written as a file", "Choose a file in an existing folder with --output")
    replace_file(path, calibrated.to_json())
    out = console.stdout()
    out.print(console.calibrations(calibrated.calibrations, calibrated.hardware.name))
    out.print(console.bounds(calibrated.bounds))
    for note in calibrated.notes:
        out.print(note, soft_wrap=True)
    console.findings(calibrated.findings)
    print(path)
