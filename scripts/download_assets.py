"""Fetch the models and data of an experiment ahead of time, or check with --local-files-only that they are there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from dlmbench.errors import BenchError
from dlmbench.experiment import load
from dlmbench.models import assets


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("config/experiments.yaml"), help="the experiment's YAML")
    parser.add_argument("--hf-token", "--hf_token", help="token, or a file that holds it; default: $HF_TOKEN")
    parser.add_argument("--model-cache-dir", "--model_cache_dir", type=Path, help="as HF_HUB_CACHE")
    parser.add_argument("--dataset-cache-dir", "--dataset_cache_dir", type=Path, help="as HF_DATASETS_CACHE")
    parser.add_argument(
        "--extra-model-id", "--extra_model_id", action="append", default=[], help="one more repository; repeatable"
    )
    parser.add_argument(
        "--local-files-only", "--local_files_only", action="store_true", help="only verify, without network"
    )
    return parser


def main() -> int:
    """Print a line an asset; 2 when something is missing or cannot be fetched."""
    options = _parser().parse_args()
    try:
        reports = assets.download(
            load.load(options.config),
            assets.read_token(options.hf_token),
            options.model_cache_dir,
            options.dataset_cache_dir,
            options.extra_model_id,
            options.local_files_only,
            lambda text: print(text, file=sys.stderr),
        )
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for report in reports:
        print(report.line, file=sys.stdout if report.is_ready else sys.stderr)
    return 0 if all(report.is_ready for report in reports) else 2


if __name__ == "__main__":
    sys.exit(main())
