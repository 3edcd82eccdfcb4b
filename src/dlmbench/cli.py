"""The command line: one function a command, and the only place that exits.

Options are accepted with `-` and `_` alike; those that take several values take them separated by commas or by
repeating the option. What a user can mend is one line on stderr and exit code 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlmbench.errors import BenchError, did_you_mean

if TYPE_CHECKING:
    from dlmbench.forecast import Forecast
    from dlmbench.types import Experiment, Plan

# typer may carry a copy of click of its own, so its error class is taken from what it exports.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="dlmbench",
    help="Is a diffusion language model worth it for you, instead of an autoregressive one? Measure both, and see.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

Config = Annotated[Path, typer.Option("--config", "-c", help="experiment file; see config/ for annotated ones")]
OutputDir = Annotated[Path, typer.Option("--output-dir", "-o", help="run folder; the same one again resumes the run")]
Steps = Annotated[list[str] | None, typer.Option(help="diffusion steps K instead of the file's, as in --steps 16,64")]
BatchSize = Annotated[list[str] | None, typer.Option(help="batch sizes B instead of the file's")]
SeqLen = Annotated[list[str] | None, typer.Option(help="total lengths N (prompt and new tokens) instead of the file's")]
MaxPrompts = Annotated[str | None, typer.Option(help="use at most so many prompts")]
PromptFile = Annotated[str | None, typer.Option(help="prompts from this file: text lines, JSONL or paragraphs")]
Bertscore = Annotated[bool, typer.Option("--compute-bertscore", help="also score BERTScore against the references")]
Models = Annotated[list[str] | None, typer.Option(help="only these models of the file, by their keys")]
KnobOption = Annotated[list[str] | None, typer.Option("--knob", help="any sampler knob: name=value or name=v1,v2")]
HardwareName = Annotated[str | None, typer.Option("--hardware", help="device, as in --hardware h200")]
HardwareFile = Annotated[Path | None, typer.Option("--hardware-file", help="YAML with devices of your own")]
RunFolder = Annotated[Path, typer.Argument(help="folder of a finished run")]


def _load(config: Path, **overrides: Any) -> tuple[Experiment, Plan]:
    from dlmbench import config as configuration
    from dlmbench import grid

    # A path that is not found from here is tried from the checkout, so that programs run from any folder.
    checkout = Path(__file__).parents[2] / config
    path = checkout if not config.is_absolute() and not config.exists() and checkout.exists() else config
    # An option given several times is the comma-separated list it could have been; knobs are parsed one by one.
    knobs = overrides.pop("knobs", None) or ()
    given: dict[str, Any] = {k: ",".join(v) if isinstance(v, list) else v for k, v in overrides.items()}
    experiment = configuration.load(path, configuration.parse_overrides(**given, knobs=knobs))
    return experiment, grid.expand(experiment)


@app.command()
def run(
    config: Config = Path("config/experiments.yaml"),
    output_dir: OutputDir = Path("results/raw_data"),
    steps: Steps = None,
    batch_size: BatchSize = None,
    seq_len: SeqLen = None,
    max_prompts: MaxPrompts = None,
    prompt_file: PromptFile = None,
    compute_bertscore: Bertscore = False,
    models: Models = None,
    knob: KnobOption = None,
) -> None:
    """Measure speed and quality of every cell, then tables, figures and the answer. Resumes where it stopped."""
    experiment, plan = _load(
        config,
        steps=steps,
        batch_size=batch_size,
        seq_len=seq_len,
        max_prompts=max_prompts,
        prompt_file=prompt_file,
        compute_bertscore=compute_bertscore,
        models=models,
        knobs=knob,
    )
    _run(experiment, plan, output_dir)


def _run(experiment: Experiment, plan: Plan, output_dir: Path) -> None:
    from dlmbench import console, session

    console.left_out(plan.left_out)
    visits = len(plan.cells) * (experiment.protocol.rounds + 1) + len(plan.scored_cells)
    title = f"{experiment.name}: {len(plan.cells)} cells into {output_dir}"
    with console.LiveProgress(title, visits) as progress:
        session.measure(experiment, plan, output_dir, progress)
    _conclude(output_dir)


def _conclude(output_dir: Path) -> None:
    from rich.console import Console

    from dlmbench import console, session

    outcome = session.conclude(output_dir)
    console.findings(outcome.findings)
    width = None if sys.stdout.isatty() else 160
    out = Console(width=width, highlight=False)
    out.print(console.summary(outcome.rows, "Summary"))
    out.print(f"\n{outcome.answer}\n", markup=False, soft_wrap=True)
    for path in (output_dir / "raw_metrics.csv", output_dir / "quality_metrics.json", *outcome.figures):
        print(path)


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
) -> None:
    """Show the cells of an experiment and what is left out, without running anything.

    With --hardware also what is predicted of each cell and of the whole run: time, memory, money.
    """
    from rich.console import Console

    from dlmbench import console

    experiment, planned = _load(
        config,
        steps=steps,
        batch_size=batch_size,
        seq_len=seq_len,
        max_prompts=max_prompts,
        prompt_file=prompt_file,
        models=models,
        knobs=knob,
    )
    forecast = _forecast(planned, hardware, hardware_file, price, calibration)
    Console(width=None if sys.stdout.isatty() else 200).print(console.cells(planned.cells, forecast, price))
    if forecast is not None:
        from dlmbench.forecast import bill

        print(console.total(bill(forecast, experiment.protocol), price))
        for note in forecast.notes:
            console.say(note)
    console.left_out(planned.left_out)


def _forecast(
    planned: Plan, name: str | None, file: Path | None, price: float | None, calibration: Path | None
) -> Forecast | None:
    if name is None:
        given = {"--hardware-file": file, "--price": price, "--calibration": calibration}
        if alone := [option for option, value in given.items() if value is not None]:
            raise BenchError(f"{alone[0]} says nothing without a device", "Add --hardware, as in --hardware h200")
        return None
    if price is not None and not 0 <= price < float("inf"):
        raise BenchError(f"--price {price:g} is not a price", "Give what one GPU hour costs, as in --price 2.5")
    from dlmbench import forecast
    from dlmbench.roofline import hardware

    device = hardware.find(name, forecast.devices(file))
    if calibration is None:
        return forecast.predict(planned, device)
    saved = forecast.load_calibration(calibration)
    made = forecast.predict(planned, device, saved.efficiencies)
    if saved.hardware == device.name:
        return made
    note = f"{calibration} was measured on {saved.hardware}: carried over to {device.name}, untested"
    return replace(made, notes=(note, *made.notes))


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

    from dlmbench import console, forecast
    from dlmbench.store import read_run
    from dlmbench.store.journal import replace_file

    made = forecast.calibrate(read_run(run_folder), hardware, forecast.devices(hardware_file))
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


@app.command()
def score(
    run_folder: RunFolder,
    metrics: Annotated[list[str], typer.Option("--metrics", "-m", help="metrics to add; see `dlmbench list metrics`")],
) -> None:
    """Add metrics to a finished run, from its stored texts and references, without generating again."""
    from dlmbench import console, session

    names = ",".join(metrics).split(",")
    with console.LiveProgress("scoring", len(names)) as progress:
        session.score(run_folder, names, progress)
    _conclude(run_folder)


@app.command()
def analyze(run_folder: RunFolder) -> None:
    """Draw the figures and state the answer again, from the files of a run alone."""
    _conclude(run_folder)


FOLDERS = ("families", "samplers", "samplers/commit", "samplers/cache", "engines", "prompts", "metrics", "figures")


@app.command(name="list")
def list_(what: Annotated[str | None, typer.Argument(help=f"one of: {', '.join(FOLDERS)}")] = None) -> None:
    """List what there is to choose from: models' families, samplers, engines, prompts, metrics, figures."""
    from dlmbench import registry

    if what is not None and what not in FOLDERS:
        raise BenchError(f"there is no list '{what}'", did_you_mean(what, FOLDERS))
    for folder in [what] if what else FOLDERS:
        print(f"{folder}:")
        for name in registry.names(folder):
            print(f"  {name:<24} {registry.summary(folder, name)}")
        if folder == "samplers":
            for name in registry.names(folder):
                for knob in registry.all_knobs(name).values():
                    print(f"    {name}: --knob {knob.name}={knob.default}: {knob.help}")


@app.command()
def doctor() -> None:
    """Say what this machine is and whether a study may start on it."""
    from dlmbench import console, diagnosis

    problems = 0
    for finding in diagnosis.examine():
        console.say(f"{finding.state:<8} {finding.subject}: {finding.text}")
        problems += finding.state == "error"
    if problems:
        raise BenchError(f"{problems} problems stand in the way of a study", "mend what is marked error above")


@app.command()
def generate(
    model: Annotated[str, typer.Option(help="checkpoint folder, hub id, or embedded:ar | embedded:llada")],
    prompt_file: Annotated[Path, typer.Option(help="one prompt a line, or JSON lines")],
    prompt_ids: Annotated[bool, typer.Option("--prompt-ids", help='lines are {"prompt_ids": [..]}')] = False,
    sampler: Annotated[str | None, typer.Option(help="default: the one of the checkpoint's family")] = None,
    new_tokens: Annotated[int, typer.Option(min=1, help="G, tokens to generate for each prompt")] = 128,
    steps: Annotated[int | None, typer.Option(help="diffusion steps K; default: one a token")] = None,
    block_length: Annotated[int | None, typer.Option(help="positions a block; default: all new tokens")] = None,
    cache: Annotated[str | None, typer.Option(help="none | prefix | dual")] = None,
    commit: Annotated[str | None, typer.Option(help="low_confidence | random | threshold | factor")] = None,
    threshold: Annotated[float | None, typer.Option(help="of commit threshold; default 0.9")] = None,
    factor: Annotated[float | None, typer.Option(help="of commit factor; default 1.0")] = None,
    cfg_scale: Annotated[float | None, typer.Option(help="classifier-free guidance; default 0, none")] = None,
    temperature: Annotated[float | None, typer.Option(help="default 0, the most probable token")] = None,
    seed: Annotated[int, typer.Option(help="of all random draws")] = 0,
    precision: Annotated[str | None, typer.Option(help="float32 | bfloat16 | float16; default by device")] = None,
    attention: Annotated[str, typer.Option(help="auto | flash | efficient | math")] = "auto",
    engine: Annotated[str, typer.Option(help="see `dlmbench list engines`")] = "hf",
    batch_size: Annotated[int, typer.Option(min=1, help="rows at once; padded on the left where they differ")] = 1,
    chat: Annotated[bool, typer.Option("--chat", help="put each prompt into the chat template")] = False,
    knob: KnobOption = None,
    trace: Annotated[bool, typer.Option("--trace", help="also write when each position was committed")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON line a prompt")] = False,
) -> None:
    """Generate from a prompt file: how to check a sampler against its authors' own examples."""
    from dlmbench import generation, registry
    from dlmbench.config import parse_overrides

    given = {
        "steps": steps,
        "block_length": block_length,
        "cache": cache,
        "commit": commit,
        "threshold": threshold,
        "factor": factor,
        "cfg_scale": cfg_scale,
        "temperature": temperature,
    }
    knobs = {name: value for name, value in given.items() if value is not None}
    for part, folder in (("cache", "samplers/cache"), ("commit", "samplers/commit")):
        if part in knobs:
            registry.load(folder, str(knobs[part]))
    if sampler is not None:
        registry.load("samplers", sampler)
    registry.load("engines", engine)
    for name, values in parse_overrides(knobs=knob or ()).knobs:
        knobs[name] = values[0]  # type: ignore[assignment]
    for name, value, known in (
        ("precision", precision, ("float32", "bfloat16", "float16")),
        ("attention", attention, ("auto", "flash", "efficient", "math")),
    ):
        if value is not None and value not in known:
            raise BenchError(f"unknown {name} '{value}'", did_you_mean(value, known))
    request = generation.Request(
        model=model,
        prompt_file=prompt_file,
        prompts_are_ids=prompt_ids,
        sampler=sampler,
        knobs=knobs,
        new_tokens=new_tokens,
        seed=seed,
        precision=precision,
        attention=attention,
        engine=engine,
        batch_size=batch_size,
        chat=chat,
        trace=trace,
    )
    for output in generation.generate(request):
        if as_json:
            shown = {k: v for k, v in asdict(output).items() if trace or k not in ("committed_at", "confidence")}
            print(json.dumps(shown, ensure_ascii=False), flush=True)
        else:
            print(output.text if output.text is not None else " ".join(map(str, output.output_ids)), flush=True)


@app.command()
def download(
    config: Config = Path("config/experiments.yaml"),
    hf_token: Annotated[str | None, typer.Option(help="token for gated models, or a file that holds it")] = None,
    model_cache_dir: Annotated[Path | None, typer.Option(help="where models are kept")] = None,
    dataset_cache_dir: Annotated[Path | None, typer.Option(help="where data sets are kept")] = None,
    extra_model_id: Annotated[list[str] | None, typer.Option(help="also fetch this model; may be repeated")] = None,
    local_files_only: Annotated[bool, typer.Option("--local-files-only", help="only check what is there")] = False,
) -> None:
    """Fetch the models and data of an experiment ahead of time, or check that they are all there."""
    from dlmbench import assets, console

    experiment, _ = _load(config)
    reports = assets.download(
        experiment,
        assets.read_token(hf_token),
        model_cache_dir,
        dataset_cache_dir,
        [name for item in extra_model_id or () for name in item.split(",")],
        local_files_only,
    )
    for report in reports:
        console.say(report.line)
    missing = [r for r in reports if not r.is_ready]
    if missing:
        raise BenchError(f"{len(missing)} of {len(reports)} assets are not ready", missing[0].remedy)


@app.command()
def demo(
    output_dir: OutputDir = Path("results/demo/raw_data"),
    max_prompts: MaxPrompts = None,
) -> None:
    """Compare the embedded tiny pair on this machine: the whole way from measuring to the answer, in minutes."""
    experiment, planned = _load(Path("config/experiments_tiny.yaml"), max_prompts=max_prompts)
    _run(experiment, planned, output_dir)


def _dashed(argument: str) -> str:
    """`--batch_size=4` as `--batch-size=4`: both spellings are in use."""
    if not argument.startswith("--"):
        return argument
    name, sign, value = argument.partition("=")
    return name.replace("_", "-") + sign + value


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exits with 0, or with 2 after one line on stderr, or with 130 after Ctrl-C."""
    given = [_dashed(a) for a in (sys.argv[1:] if arguments is None else arguments)]
    try:
        app(given, prog_name="dlmbench", standalone_mode=False)
    except BenchError as error:
        _fail(error.message, error.hint)
    except _USAGE_ERROR as error:
        _fail(str(getattr(error, "format_message", error.__str__)()), "See `dlmbench COMMAND --help`")
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\nstopped; the same command resumes\n")
        sys.exit(130)


def _fail(message: str, hint: str) -> None:
    text = f"{message.rstrip('. ')}. {hint}" if hint else message
    sys.stderr.write(f"dlmbench: {' '.join(text.split())}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
