"""Run the benchmark: `python -m src.main ...` and `python src/main.py ...` are `dlmbench run ...`, from any folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

if __name__ == "__main__":
    from dlmbench.cli import main

    main(["run", *sys.argv[1:]])
