"""Look around: `list` what there is, `doctor` whether this machine is fit, `download` what a run needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlmbench import registry
from dlmbench.cli.options import Config, app, load
from dlmbench.errors import BenchError, did_you_mean


@app.command(name="list")
def list_(what: Annotated[str | None, typer.Argument(help=f"one of: {', '.join(registry.KINDS)}")] = None) -> None:
    """List what there is to choose from: models' families, samplers, engines, prompts, metrics, figures."""
    if what is not None and what not in registry.KINDS:
        raise BenchError(f"there is no list '{what}'", did_you_mean(what, registry.KINDS))
    for kind in [what] if what else registry.KINDS:
        print(f"{kind}:")
        for name in registry.names(kind):
            print(f"  {name:<24} {registry.summary(kind, name)}")
        if kind == "samplers":
            for name in registry.names(kind):
                for knob in registry.all_knobs(name).values():
                    print(f"    {name}: --knob {knob.name}={knob.default}: {knob.help}")


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="also check the models and data of this experiment file")
    ] = None,
) -> None:
    """Say what this machine is and whether a study may start on it; exits with 2 if not."""
    from dlmbench.cli import console, doctor

    experiment = load(config)[0] if config is not None else None
    problems = 0
    for finding in doctor.examine(experiment):
        console.say(finding.line)
        problems += finding.state == "error"
    if problems:
        words = "1 problem stands" if problems == 1 else f"{problems} problems stand"
        raise BenchError(f"{words} in the way of a study", "mend what is marked error above")


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
    from dlmbench.cli import console
    from dlmbench.models import assets

    experiment, _ = load(config)
    reports = assets.download(
        experiment,
        assets.read_token(hf_token),
        model_cache_dir,
        dataset_cache_dir,
        [name for item in extra_model_id or () for name in item.split(",")],
        local_files_only,
        console.say,
    )
    for report in reports:
        console.say(report.line)
    missing = [r for r in reports if not r.is_ready]
    if missing:
        raise BenchError(f"{len(missing)} of {len(reports)} assets are not ready", missing[0].remedy)
