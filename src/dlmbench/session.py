"""A whole run, as its table of contents: prompts, speed pass, quality pass, analysis, figures.

The steps from `conclude` on work from the run folder alone, so they can be repeated without the models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from dlmbench import prompts as prompt_sources
from dlmbench import registry
from dlmbench.analysis.answer import SummaryRow, answer, summary_rows
from dlmbench.analysis.checks import findings
from dlmbench.analysis.study import analyse
from dlmbench.assets import resolve_model
from dlmbench.codec import Codec, find
from dlmbench.engines import _checkpoint as checkpoint
from dlmbench.errors import BenchError
from dlmbench.figures import write_all
from dlmbench.measure.environment import fingerprint
from dlmbench.runner import SpeedPass
from dlmbench.scorer import score_run
from dlmbench.store import Store, read_run
from dlmbench.types import Experiment, Finding, ModelSpec, Plan, Progress, PromptSets, PromptSettings, from_mapping
from dlmbench.worker import Pool
