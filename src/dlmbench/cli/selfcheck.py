"""`selfcheck`: the instrument measured on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from dlmbench.cli.options import command, split_names


@command()
def selfcheck(
    engine: Annotated[
        list[str] | None, Option(metavar="NAME[,NAME...]", help="only these engines; default: hf,native")
    ] = None,
    budget: Annotated[
        float | None,
        Option(
            min=0, metavar="SECONDS", help="time to spend, at least on three processes; default 150, with a GPU 330"
        ),
    ] = None,
    gpus: Annotated[
        str | None,
        Option(metavar="all|N", help="also measure what the other GPUs of this node cost when they are busy"),
    ] = None,
    output: Annotated[
        Path | None, Option("--output", metavar="FILE", help="default: where `dlmbench run` looks for it")
    ] = None,
) -> None:
    """Measure the instrument itself: bias of the clock, noise between equal runs, the smallest slowdown it finds.

    `dlmbench run` picks the result up, and the report uses it: a difference within the noise is not reported as one.

    \b
    Example: dlmbench selfcheck
    """
    from dlmbench.cli import console

    console.load_libraries("torch")
    from dlmbench.bench import selfcheck as check
    from dlmbench.bench.generate import default_device
    from dlmbench.bench.gpus import find_gpus
    from dlmbench.measure.environment import fingerprint
    from dlmbench.results.selfcheck import selfcheck_path, write_selfcheck

    device = default_device()
    environment = fingerprint(device)
    path = output or selfcheck_path(environment.id)
    with console.ProgressBar("self-check") as bar:
        found = check.run_selfcheck(
            environment,
            device,
            bar.step,
            split_names(engine) or check.ENGINES,
            check.BUDGET_S[device] if budget is None else budget,
            find_gpus(gpus) if gpus else (),
        )
    write_selfcheck(path, found)
    out = console.stdout()
    out.print(console.selfcheck(found))
    for line in console.selfcheck_remarks(found):
        out.print(line, soft_wrap=True)
    print(path)
