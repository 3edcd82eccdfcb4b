"""Roofline of LLaDA-8B: `python run_llada_roofline_model.py --help`; explained in docs/roofline.md."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from dlmbench.roofline.command import run

if __name__ == "__main__":
    sys.exit(run("llada", sys.argv[1:], sys.stdout, sys.stderr))
