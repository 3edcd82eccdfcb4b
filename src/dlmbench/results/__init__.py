"""The run folder: records that survive a crash, and a CSV and a JSON made from them.

`records.jsonl` is the source of everything: one record per line, each append one write followed by fsync, so that a
killed run loses at most the line it was writing. The other files are rewritten from it and replaced atomically. All
records of a folder come from one environment, because times of two environments cannot be compared.
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
)
from dlmbench.results.settings import load_settings, recorded_protocol
from dlmbench.results.views import FIXED_COLUMNS, spreadsheet_field
