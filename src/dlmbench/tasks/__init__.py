"""Task accuracy through lm-eval: a model for its command line, and task lists run over a step sweep.

lm-eval is an optional extra and slow to import, so nothing outside this package imports it, and nothing in it before
`require` has found it.
"""

from __future__ import annotations

import importlib.util

from dlmbench.errors import BenchError


def require() -> None:
    """Check that lm-eval is installed.

    Raises:
        BenchError: it is not, with the command that installs it.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise BenchError("tasks need lm-eval, which is not installed", 'Run `pip install "lm-eval>=0.4.13"`')
