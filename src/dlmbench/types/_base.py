"""Words and small tools that all records share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, TypeVar, cast

SCHEMA_VERSION = 1

KnobValue = bool | int | float | str | None
Knobs = tuple[tuple[str, KnobValue], ...]
Role = Literal["baseline", "target"]
Weights = Literal["pretrained", "random"]
Status = Literal["ok", "oom", "invalid", "error", "skipped"]

T = TypeVar("T")


def stable_hash(value: object, length: int = 12) -> str:
    """A short hash of a JSON-able value: equal content, equal hash, on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def from_mapping(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build the flat record `kind` from a mapping read from a file; unknown keys are left for newer readers."""
    known = {f.name for f in fields(cast(Any, kind))}
    return kind(**{k: v for k, v in values.items() if k in known})
