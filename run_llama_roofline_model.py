"""Roofline of LLaMA-3-8B: `python run_llama_roofline_model.py --help`; explained in docs/roofline.md."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from dlmbench.roofline.command import run

if __name__ == "__main__":
    sys.exit(run("llama", sys.argv[1:], sys.stdout, sys.stderr))
