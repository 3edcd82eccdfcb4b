"""This machine: `list` the plug-ins, check it with `doctor`, `download` what an experiment needs."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from dlmbench import registry
from dlmbench.cli.options import AsJson, Config, ExperimentOptions, command, split_names
from dlmbench.errors import BenchError, did_you_mean

_HARDWARE = "hardware"
_KINDS = (*registry.KINDS, _HARDWARE)


@command(name="list")
def list_(
    what: Annotated[
        str | None,
        Argument(
            metavar="KIND", help=f"one of: {', '.join(_KINDS)}; default: all", autocompletion=lambda: list(_KINDS)
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List plug-ins (model families, samplers and their knobs, engines, metrics and so on) and known devices.

    \b
    Example: dlmbench list samplers
    """
    from dlmbench.cli import console

    if what is not None and what not in _KINDS:
        raise BenchError(f"unknown kind '{what}'", did_you_mean(what, _KINDS))
    found = {kind: _devices() if kind == _HARDWARE else _plugins(kind) for kind in ([what] if what else _KINDS)}
    if as_json:
        console.print_json(found)
        return
    for kind, entries in found.items():
        width = max((len(e["name"]) for e in entries), default=0) + 2
        print(f"{kind}:")
        for entry in entries:
            print(f"  {entry['name']:<{width}}{entry['summary']}")
        for entry in entries:
            for knob in entry.get("knobs", ()):
                # As an experiment file and --knob accept it: null, true, false.
                default = knob["default"] if isinstance(knob["default"], str) else json.dumps(knob["default"])
                print(f"    {entry['name']}: --knob {knob['name']}={default}: {knob['help']}")


def _plugins(kind: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [{"name": n, "summary": registry.summary(kind, n)} for n in registry.names(kind)]
    for entry in entries if kind == "samplers" else ():
        knobs = registry.all_knobs(entry["name"]).values()
        entry["knobs"] = [{"name": k.name, "default": k.default, "help": k.help} for k in knobs]
    return entries


def _devices() -> list[dict[str, Any]]:
    """The devices that --hardware knows, with their data-sheet rates."""
    from dlmbench.roofline import hardware

    return [
        {
            "name": row.name,
            "summary": f"{row.memory_bytes / 1e9:.0f} GB, {row.bandwidth / 1e9:.0f} GB/s, "
            f"{row.bf16_flops / 1e12:.0f} bfloat16 TFLOP/s",
            **asdict(row),
        }
        for row in hardware.ROWS
    ]


@command()
def doctor(
    config: Annotated[
        Path | None,
        Option("--config", "-c", metavar="FILE", help="also check the models and data of this experiment file"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check whether this machine is ready to measure: GPU, driver, packages, disk, caches, SLURM.

    Each line is ok, warning or error, with advice. Exits with code 2 after an error.

    \b
    Example: dlmbench doctor -c config/experiments.yaml
    """
    from dlmbench.cli import console, doctor

    experiment = ExperimentOptions(config).load()[0] if config is not None else None
    with suppress(ImportError):  # the check of the packages reports it
        console.load_libraries("torch")
    checks, errors = [], 0
    for check in doctor.run_checks(experiment):
        checks.append(check)
        errors += check.state == "error"
        if not as_json:
            print(check.line, flush=True)
    if as_json:
        console.print_json({"ready": not errors, "checks": checks})
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
