"""This machine: `list` the plug-ins, check it with `doctor`, `download` what an experiment needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from dlmbench import registry
from dlmbench.cli.options import Config, ExperimentOptions, command, split_names
from dlmbench.errors import BenchError, did_you_mean


@command(name="list")
def list_(
    what: Annotated[
        str | None, Argument(metavar="KIND", help=f"one of: {', '.join(registry.KINDS)}; default: all")
    ] = None,
) -> None:
    """List the available plug-ins: model families, samplers and their knobs, engines, metrics and so on.

    \b
    Example: dlmbench list samplers
    """
    if what is not None and what not in registry.KINDS:
        raise BenchError(f"unknown kind '{what}'", did_you_mean(what, registry.KINDS))
    for kind in [what] if what else registry.KINDS:
        names = registry.names(kind)
        width = max(map(len, names), default=0) + 2
        print(f"{kind}:")
        for name in names:
            print(f"  {name:<{width}}{registry.summary(kind, name)}")
        for name in names if kind == "samplers" else ():
            for knob in registry.all_knobs(name).values():
                # As an experiment file and --knob accept it: null, true, false.
                default = knob.default if isinstance(knob.default, str) else json.dumps(knob.default)
                print(f"    {name}: --knob {knob.name}={default}: {knob.help}")


@command()
def doctor(
    config: Annotated[
        Path | None,
        Option("--config", "-c", metavar="FILE", help="also check the models and data of this experiment file"),
    ] = None,
) -> None:
    """Check whether this machine is ready to measure: GPU, driver, packages, disk, caches, SLURM.

    Each line is ok, warning or error, with advice. Exits with code 2 after an error.

    \b
    Example: dlmbench doctor -c config/experiments.yaml
    """
    from dlmbench.cli import console, doctor

    experiment = ExperimentOptions(config).load()[0] if config is not None else None
    errors = 0
    for check in doctor.run_checks(experiment):
        console.log(check.line)
        errors += check.state == "error"
    if errors:
        count = "1 check" if errors == 1 else f"{errors} checks"
        raise BenchError(f"{count} failed: this machine is not ready to measure", "Fix what is marked error above")


@command()
def download(
    config: Config = Path("config/experiments.yaml"),
    hf_token: Annotated[
        str | None, Option(metavar="TOKEN|FILE", help="token for gated models, or a file that contains it")
    ] = None,
    model_cache_dir: Annotated[Path | None, Option(metavar="DIR", help="cache folder of models")] = None,
    dataset_cache_dir: Annotated[Path | None, Option(metavar="DIR", help="cache folder of data sets")] = None,
    extra_model_id: Annotated[list[str] | None, Option(metavar="ID[,ID...]", help="further models to download")] = None,
    local_files_only: Annotated[
        bool, Option("--local-files-only", help="only check that everything is in the cache")
    ] = False,
) -> None:
    """Download the models and data of an experiment, or check that they are complete.

    \b
    Example: dlmbench download -c config/experiments.yaml --hf-token ~/.hf_token
    """
    from dlmbench.cli import console
    from dlmbench.models import assets

    experiment, _ = ExperimentOptions(config).load()
    reports = assets.download(
        experiment,
        assets.read_token(hf_token),
        model_cache_dir,
        dataset_cache_dir,
        split_names(extra_model_id),
        local_files_only,
        console.log,
    )
    for report in reports:
        console.log(report.line)
    missing = [r for r in reports if not r.is_ready]
    if missing:
        raise BenchError(f"{len(missing)} of {len(reports)} assets are not ready", missing[0].remedy)
