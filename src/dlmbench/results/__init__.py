"""The run folder: records that survive a crash, and the CSV and JSON that are views of them.

`records.jsonl` is the truth: one line a record, each append one write followed by fsync, so that a killed run loses at
most the line it was writing. Views are rewritten beside the old ones and swapped in whole; a reader never sees half a
file. A folder belongs to one environment, because times from two of them are not one data set.
"""

from dlmbench.results.folder import RAW_METRICS, Store
from dlmbench.results.records import (
    GENERATIONS,
    QUALITY_METRICS,
    RECORDS,
    TEXT_SCORES,
    Record,
    read_generations,
    read_run,
    read_text_results,
    read_text_scores,
)
from dlmbench.results.views import FIXED_COLUMNS, spreadsheet_field

__all__ = [
    "FIXED_COLUMNS",
    "GENERATIONS",
    "QUALITY_METRICS",
    "RAW_METRICS",
    "RECORDS",
    "TEXT_SCORES",
    "Record",
    "Store",
    "read_generations",
    "read_run",
    "read_text_results",
    "read_text_scores",
    "spreadsheet_field",
]
