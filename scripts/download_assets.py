"""Download the models and data of an experiment: `dlmbench download`, for a checkout that is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from dlmbench.cli import main

if __name__ == "__main__":
    main(["download", *sys.argv[1:]])
