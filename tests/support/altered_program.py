"""`python -m support.altered_program [--devices N] [--silent S] -- ARGUMENTS`: the command line with one thing changed.

devices: `--gpus` finds so many devices, each one thread of this CPU. silent: seconds after which a process hangs.
"""

from __future__ import annotations

import argparse
import sys

from support.program import command_line


def altered(*arguments: object, devices: int | None = None, silent: float | None = None) -> list[str]:
    """The command line that starts it as a process of its own."""
    changes = [f"--devices={devices}"] if devices else []
    changes += [f"--silent={silent}"] if silent else []
    return [sys.executable, "-m", "support.altered_program", *changes, "--", *command_line(*arguments)[3:]]


def main() -> None:
    """Change what is asked for, then hand over to the program."""
    import dlmbench.cli
    from dlmbench.bench import gpus, speed
    from dlmbench.bench.worker import Placement

    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int)
    parser.add_argument("--silent", type=float)
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args()
    if options.devices:
        placements = tuple(Placement(threads=1, name=f"CPU {i}") for i in range(options.devices))
        gpus.find_gpus = lambda _: placements
    if options.silent:
        speed.MOST_SILENT_S = speed.MOST_LOADING_S = options.silent
    dlmbench.cli.main(options.arguments)


if __name__ == "__main__":
    main()
