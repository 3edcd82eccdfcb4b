"""`python -m support.two_devices CONFIG OUTPUT`: a run on two devices of this machine, each one thread of its CPU."""

import sys
from pathlib import Path


def main(config: Path, output: Path) -> None:
    """Measure, as `dlmbench run --gpus 2` does it on GPUs, without the report."""
    from dlmbench.bench import run
    from dlmbench.bench.worker import Placement
    from dlmbench.cli import console
    from dlmbench.cli.options import PlanOptions

    experiment, plan = PlanOptions(config).load()
    devices = [Placement(threads=1, name=f"CPU {i}") for i in range(2)]
    with console.measuring(experiment.name, experiment.protocol, plan, output) as progress:
        run.run(experiment, plan, output, progress, placements=devices)


if __name__ == "__main__":
    from dlmbench.errors import StopRequestedError

    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except StopRequestedError as stopped:
        sys.stderr.write(f"{stopped}\n")
        sys.exit(stopped.code)
