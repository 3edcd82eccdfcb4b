"""Predict: `plan` before measuring, `calibrate` after it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlmbench.cli.options import (
    BatchSize,
    Config,
    HardwareFile,
    HardwareName,
    KnobOption,
    MaxPrompts,
    Models,
    PromptFile,
    RunFolder,
    SeqLen,
    Steps,
    app,
    load,
)
from dlmbench.errors import BenchError

if TYPE_CHECKING:
    from dlmbench.roofline.predict import Forecast
    from dlmbench.types import Plan


@app.command()
def plan(
    config: Config = Path("config/experiments.yaml"),
    steps: Steps = None,
    batch_size: BatchSize = None,
    seq_len: SeqLen = None,
    max_prompts: MaxPrompts = None,
    prompt_file: PromptFile = None,
    models: Models = None,
    knob: KnobOption = None,
    hardware: HardwareName = None,
    hardware_file: HardwareFile = None,
    price: Annotated[float | None, typer.Option(help="of one GPU hour, in any currency; with --hardware")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="what `dlmbench calibrate` wrote, instead of the H200 defaults")
    ] = None,
    break_even: Annotated[
        bool, typer.Option("--break-even", help="instead of the cells: at how many steps both models take equally long")
    ] = False,
) -> None:
    """Show the cells of an experiment and what is left out, without running anything.

    With --hardware also what is predicted of each cell and of the whole run: time, memory, money; with --break-even
    the step counts at which diffusion takes as long as the baseline, at each length and batch size.
    """
    from rich.console import Console

    from dlmbench.cli import console

    experiment, planned = load(
        config,
        steps=steps,
        batch_size=batch_size,
        seq_len=seq_len,
        max_prompts=max_prompts,
        prompt_file=prompt_file,
        models=models,
        knob=knob,
    )
    forecast = _forecast(planned, hardware, hardware_file, price, calibration, break_even)
    out = Console(width=None if sys.stdout.isatty() else 200, markup=False, emoji=False, highlight=False)
    if break_even and forecast is not None:
        for part in console.surfaces(forecast.surfaces(), forecast.hardware.name):
            out.print(part, soft_wrap=isinstance(part, str))
    else:
        out.print(console.cells(planned.cells, forecast, price))
    if forecast is not None:
        if not break_even:
            from dlmbench.bench.forecast import run_cost

            print(console.total(run_cost(forecast, experiment.protocol), price))
        for note in forecast.notes:
            console.say(note)
    console.left_out(planned.left_out)


def _forecast(
    planned: Plan, name: str | None, file: Path | None, price: float | None, calibration: Path | None, break_even: bool
) -> Forecast | None:
    if name is None:
        given = {
            "--hardware-file": file,
            "--price": price,
            "--calibration": calibration,
            "--break-even": break_even or None,
        }
        if alone := [option for option, value in given.items() if value is not None]:
            raise BenchError(f"{alone[0]} says nothing without a device", "Add --hardware, as in --hardware h200")
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


@app.command()
def calibrate(
    run_folder: RunFolder,
    hardware: HardwareName = None,
    hardware_file: HardwareFile = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="JSON for `plan --calibration`; default: calibration.json in RUN")
    ] = None,
) -> None:
    """Fit the cost model to the cells of a run, with its error on cells left out, and hold each against its floor."""
    from rich.console import Console

    from dlmbench.cli import console
    from dlmbench.results import read_run
    from dlmbench.results.journal import replace_file
    from dlmbench.roofline.calibrate import calibrate_run
    from dlmbench.roofline.hardware import load_rows

    made = calibrate_run(read_run(run_folder), hardware, load_rows(hardware_file))
    path = run_folder / "calibration.json" if output is None else output
    if path.is_dir() or not path.parent.is_dir():
        raise BenchError(f"{path} cannot be written as a file", "Name a file in a folder that exists with --output")
    replace_file(path, made.to_json())
    out = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    out.print(console.calibrations(made.calibrations, made.hardware.name))
    out.print(console.bounds(made.bounds))
    for note in made.notes:
        out.print(note, markup=False, soft_wrap=True)
    console.findings(made.findings)
    print(path)
