"""lm-eval's own command line, with the model `dlmbench` registered; the arguments are passed through unchanged."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence

from dlmbench.errors import BenchError


def run_lm_eval(arguments: Sequence[str]) -> None:
    """Run `lm-eval ARGUMENTS`.

    Raises:
        BenchError: invalid arguments, or an unknown task, with the nearest known ones.
    """
    sys.stderr.write("loading lm-eval ...\n")
    from lm_eval.__main__ import cli_evaluate

    import dlmbench.tasks.adapter  # noqa: F401  (registers the model)

    own_arguments, sys.argv = sys.argv, ["lm-eval", *arguments]
    try:
        cli_evaluate()
    except ValueError as error:
        missing = str(error).removeprefix("Tasks not found: ")
        if missing == str(error):
            if _is_about_arguments(error):
                raise BenchError(str(error), "See `dlmbench lm-eval run --help`") from None
            raise
        raise _unknown_task(missing.split(", ")[0], arguments) from None
    finally:
        sys.argv = own_arguments


def _is_about_arguments(error: ValueError) -> bool:
    """Whether lm-eval raised the error about its command line, and not something deeper during the evaluation."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_globals.get("__name__") == "lm_eval.config.evaluate_config"


def _unknown_task(name: str, arguments: Sequence[str]) -> BenchError:
    from lm_eval.tasks import TaskManager

    from dlmbench.tasks.sweep import unknown_task

    sys.stderr.write(f"looking for tasks like '{name}' ...\n")
    include = [b for a, b in itertools.pairwise(arguments) if a == "--include_path"]
    include += [a.partition("=")[2] for a in arguments if a.startswith("--include_path=")]
    return unknown_task(name, TaskManager(include_path=include[-1] if include else None).all_tasks)
