"""lm-eval's own command line, with the model `dlmbench` registered; the arguments are passed through unchanged."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence

from dlmbench.errors import BenchError

_NOT_FOUND = "Tasks not found: "  # how lm-eval begins its message


def run_lm_eval(arguments: Sequence[str]) -> None:
    """Run `lm-eval ARGUMENTS`.

    Raises:
        BenchError: invalid arguments, or an unknown task; the hint suggests similar names.
    """
    sys.stderr.write("loading lm-eval ...\n")
    from lm_eval.__main__ import cli_evaluate

    import dlmbench.tasks.adapter  # noqa: F401  (registers the model)

    saved_argv, sys.argv = sys.argv, ["lm-eval", *arguments]
    try:
        cli_evaluate()
    except ValueError as error:
        text = str(error)
        if text.startswith(_NOT_FOUND):
            raise _unknown_task(text.removeprefix(_NOT_FOUND).split(", ")[0], arguments) from None
        if _is_about_arguments(error):
            raise BenchError(text, "See `dlmbench lm-eval run --help`") from None
        raise
    finally:
        sys.argv = saved_argv


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
