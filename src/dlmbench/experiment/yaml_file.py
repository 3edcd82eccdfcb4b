"""Reading a YAML file: what can be wrong with it is said with its line, and a key given twice is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dlmbench.errors import BenchError


class _Loader(yaml.SafeLoader):
    """YAML without the two surprises: a key given twice is an error, and 1e-3 is a number."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping whose keys are distinct; looked at as it is written, before merges (<<) bring in keys of others."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.composer.ComposerError(None, None, f"key '{name}' is given twice", key.start_mark)
            seen.add(name)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        BenchError: no such file, unreadable, empty, not text, not YAML (with the line), not a mapping.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BenchError(f"no configuration file at {path}", "Check --config; examples are in config/") from None
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}", "Name a readable YAML file") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise BenchError(f"{path} is not a text file", "Name a YAML file in UTF-8")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise BenchError(f"{path}: {line}{error.problem or error.context}", "Mend the YAML there") from None
    except yaml.reader.ReaderError as error:
        number = text[: error.position].count("\n") + 1
        raise BenchError(f"{path}: line {number}: a character that YAML does not allow", "Remove it") from None
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{path}: a value that cannot be read: {error}", "Mend the YAML") from None
    if value is None:
        raise BenchError(f"{path} is empty", "Start from one of the files in config/")
    if not isinstance(value, dict):
        raise BenchError(f"{path} is not a mapping of keys to values", "Start from one of the files in config/")
    return value


def place(where: Sequence[int | str], raw: Any) -> str:
    """A dotted path such as grid[0].batch_size; the index of a list that the file does not have is left out."""
    text, node = "", raw
    for part in where:
        if isinstance(part, str):
            text += f".{part}" if text else part
            node = node.get(part) if isinstance(node, Mapping) else None
        elif isinstance(node, list):
            text += f"[{part}]"
            node = node[part] if part < len(node) else None
    return text
