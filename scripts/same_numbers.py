"""Compare the numbers of two reports of one run: `python scripts/same_numbers.py OLD NEW`.

OLD and NEW are run folders after `dlmbench report`. CSV and JSON files are compared field by field; of report.md and
report.html the numbers are compared, however the words around them changed. Exits with 1 when a number differs.
"""

from __future__ import annotations

import argparse
import csv
import html
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?%?")


def fields_of_json(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a JSON document with its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from fields_of_json(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from fields_of_json(inner, f"{path}[{index}]")
    else:
        yield path, value


def fields_of_csv(path: Path) -> Iterator[tuple[str, str]]:
    """Every field of a CSV file with its row and column."""
    with path.open(encoding="utf-8", newline="") as file:
        for index, row in enumerate(csv.DictReader(file)):
            yield from ((f"row {index}, {column}", value) for column, value in row.items())


def numbers_of_text(path: Path) -> Counter[str]:
    """How often each number stands in a document; an HTML page is reduced to its visible text first."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        text = re.sub(r"<(script|style|svg)\b.*?</\1>|<[^>]+>", " ", text, flags=re.DOTALL)
        text = html.unescape(text)
    return Counter(NUMBER.findall(text))


def compare_fields(name: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two files of named fields."""
    found = [f"{name}: {key} is missing" for key in old.keys() - new.keys()]
    found += [f"{name}: {key} is new" for key in new.keys() - old.keys()]
    both = (key for key in old if key in new)
    return found + [f"{name}: {key}: {old[key]!r} became {new[key]!r}" for key in both if old[key] != new[key]]


def compare(old: Path, new: Path) -> list[str]:
    """What differs between two run folders."""
    found: list[str] = []
    tables = [p.relative_to(old) for p in [*old.glob("*.csv"), *old.glob("figures/*.csv")]]
    for name in tables:
        found += compare_fields(str(name), dict(fields_of_csv(old / name)), dict(fields_of_csv(new / name)))
    for name in ("quality_metrics.json",):
        one, other = (dict(fields_of_json(json.loads((f / name).read_text("utf-8")))) for f in (old, new))
        found += compare_fields(name, one, other)
    for name in ("report.md", "report.html"):
        one, other = numbers_of_text(old / name), numbers_of_text(new / name)
        found += [f"{name}: {number} stands {n} times less" for number, n in (one - other).items()]
        found += [f"{name}: {number} stands {n} times more" for number, n in (other - one).items()]
    return found


def main() -> None:
    """Print each difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    arguments = parser.parse_args()
    differences = compare(arguments.old, arguments.new)
    print("\n".join(differences) or "all numbers are equal")
    sys.exit(bool(differences))


if __name__ == "__main__":
    main()
