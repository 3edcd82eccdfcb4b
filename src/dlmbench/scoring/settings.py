"""The settings of metrics: read from the command line, checked, and the models that metrics load found.

A metric declares its settings as a dataclass SETTINGS, as a sampler declares its KNOBS; `check(settings)` gives the
reason why some cannot be used, and `prepare(settings)` finds a model that the metric loads itself.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from dlmbench import registry
from dlmbench.errors import BenchError, did_you_mean
from dlmbench.types import KnobValue, MetricRequest

MetricSettings = Mapping[str, Mapping[str, KnobValue]]


def settle(metrics: Sequence[str], given: Mapping[str, Mapping[str, Any]]) -> tuple[MetricRequest, ...]:
    """The metrics with their settings and the models they load, found before anything is measured.

    Raises:
        BenchError: a metric that does not exist or is refused, an unknown setting, or a missing model.
    """
    requests = []
    for name in dict.fromkeys(metrics):
        module = registry.load("metrics", name)
        if hasattr(module, "REFUSED"):
            raise BenchError(f"{name}: {module.REFUSED}", module.INSTEAD)
        settings = _settings(name, given.get(name, {}))
        if hasattr(module, "check") and (reason := module.check(settings)):
            raise BenchError(reason, f"Change it with --setting {name}.NAME=VALUE or in the experiment file")
        if hasattr(module, "prepare"):
            requests.append(module.prepare(settings))
        else:
            requests.append(MetricRequest(name, tuple(dataclasses.asdict(settings).items()) if settings else ()))
    return tuple(requests)


def _settings(metric: str, given: Mapping[str, Any]) -> Any:
    """The metric's SETTINGS with these values, None if it has none."""
    declared: Any = getattr(registry.load("metrics", metric), "SETTINGS", None)
    kinds = typing.get_type_hints(declared) if declared else {}
    for name in given:
        if name not in kinds:
            raise BenchError(f"metric {metric} has no setting '{name}'", did_you_mean(name, kinds))
    return declared(**{k: _typed(metric, k, kinds[k], v) for k, v in given.items()}) if declared else None


def _typed(metric: str, name: str, kind: type, value: Any) -> Any:
    """A setting converted to its type; on the command line everything is text."""
    if type(value) is kind:
        return value
    try:
        if isinstance(value, str) and kind in (int, float):
            return kind(value)
    except ValueError:
        pass
    raise BenchError(
        f"{metric}.{name}: {value!r} is not {'an' if kind is int else 'a'} {kind.__name__}",
        f"Write {metric}.{name}=VALUE",
    )


def parse_settings(metrics: Sequence[str], judge: str | None, given: Sequence[str]) -> MetricSettings:
    """The command line's --judge and its --setting METRIC.NAME=VALUE, for the requested metrics.

    Raises:
        BenchError: not of that form, of a metric that is not requested, or a judge that no metric uses.
    """
    found: dict[str, dict[str, KnobValue]] = {}
    if judge is not None:
        users = [m for m in metrics if "judge" in _names(m)]
        if not users:
            judged = ", ".join(m for m in registry.names("metrics") if "judge" in _names(m))
            raise BenchError(
                f"--judge {judge}: none of the requested metrics uses a judge", f"Metrics with a judge: {judged}"
            )
        for metric in users:
            found.setdefault(metric, {})["judge"] = judge
    for item in given:
        path, equals, value = item.partition("=")
        metric, dot, name = path.partition(".")
        if not (equals and dot and metric and name):
            raise BenchError(f"--setting {item} is not METRIC.NAME=VALUE", "For example --setting bertscore.model=DIR")
        if metric not in metrics:
            raise BenchError(f"--setting {item}: {metric} is not requested", did_you_mean(metric, metrics))
        found.setdefault(metric, {})[name] = value
    return found


def _names(metric: str) -> list[str]:
    declared: Any = getattr(registry.load("metrics", metric), "SETTINGS", None)
    return [f.name for f in dataclasses.fields(declared)] if declared else []
