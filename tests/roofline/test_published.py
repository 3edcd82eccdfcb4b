"""The published model to the character, through the thin programs, and how they meet bad input."""

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlmbench.roofline import published
from dlmbench.roofline.command import run, text_of
from dlmbench.roofline.models_8b import LLADA_8B, LLAMA_8B

ROOT = Path(__file__).parents[2]
GOLDEN = sorted((ROOT / "tests/golden/roofline").glob("*.txt"))
RATES = published.PUBLISHED_A6000


def _ask(command: str) -> str:
    program, *arguments = command.removeprefix("python ").split()
    return text_of("llama" if "llama" in program else "llada", arguments)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_listings_are_as_published(path):
    command, _, listing = path.read_text().partition("\n")
    assert _ask(command) == listing.rstrip("\n")


def test_there_is_a_golden_file_for_each_published_run():
    assert len(GOLDEN) == 14  # 15 runs, one of them given twice


@pytest.mark.skipif("DLMBENCH_SEEDS" not in os.environ, reason="DLMBENCH_SEEDS names the folder of the drafts")
def test_the_draft_itself_line_by_line():
    (path,) = Path(os.environ["DLMBENCH_SEEDS"]).glob("004_*.txt")
    parts = re.split(r"\(python (run_\w+_roofline_model\.py [^)]*)\)\n", path.read_text())
    commands, listings = parts[1::2], parts[2::2]
    assert len(commands) == 15
    for command, listing in zip(commands, listings, strict=True):
        # What follows a listing is two empty lines and the next heading.
        assert _ask(command).splitlines() == listing.split("\n\n\n")[0].rstrip("\n").splitlines(), command


def test_long_decodes_are_added_up_exactly():
    """The closed form over contexts against one pass after another, across the ridge where batches make one."""
    for batch in (1, 64):
        fast = published.llama(LLAMA_8B, RATES, 10, 700, batch).decode
        slow = published.Cost()
        for i in range(1, 701):
            one = published.llama(LLAMA_8B, RATES, 9 + i, 1, batch).decode
            slow = slow + one
        assert fast.flops == slow.flops
        assert fast.bytes == slow.bytes
        assert fast.total_s == pytest.approx(slow.total_s, rel=1e-12)


def test_contexts_on_both_sides_of_a_ridge():
    slow_vectors = published.Rates("x", RATES.macs_per_s, 1.0, RATES.bytes_per_s)
    near_ridge = published.Rates("y", 4.0 * 700 * 128 / (2 * 128 * 704) * 1e12, 1e15, 1e12)
    for rates in (slow_vectors, near_ridge):
        fast = published.llama(LLAMA_8B, rates, 0, 3000).decode.total_s
        slow = sum(published.llama(LLAMA_8B, rates, i, 1).decode.total_s for i in range(3000))
        assert fast == pytest.approx(slow, rel=1e-12)


def test_a_phase_of_length_zero_is_absent():
    assert "Decode" not in text_of("llama", ["--sequence_length", "0"])
    assert "Prefill" not in text_of("llama", ["--input_prompt_length", "0", "--sequence_length", "3"])


def test_the_longest_lengths_take_no_time():
    start = time.process_time()
    published.llama(LLAMA_8B, RATES, 131072, 131072, 64)
    published.llada(LLADA_8B, RATES, 131072, 131072, 128, 131072, 64)
    assert time.process_time() - start < 2


def test_batches_share_the_weights_but_not_attention():
    one, four = (published.llama(LLAMA_8B, RATES, 0, 16, b).decode for b in (1, 4))
    assert four.flops["FFN Linear Layers"] == 4 * one.flops["FFN Linear Layers"]
    assert four.seconds["FFN Linear Layers"] < 1.01 * one.seconds["FFN Linear Layers"]
    assert four.seconds["MHA Attention"] == pytest.approx(4 * one.seconds["MHA Attention"])


def test_json_says_what_the_listing_says():
    arguments = ["--sequence-length=64", "--block-length=32", "--steps=8"]
    values = json.loads(text_of("llada", [*arguments, "--json"]))
    assert f"Total Estimated Runtime: {1e3 * values['total_s']:.4f} ms" in text_of("llada", arguments)
    assert [b["steps"] for b in values["blocks"]] == [4, 4]
    assert values["steps"] == 8


BAD = {
    "llama": {
        "--input_prompt_length=-1": "input_prompt_length is -1",
        "--input_prompt_length=0 --sequence_length=0": "both 0",
        "--batch_size 0": "batch_size is 0",
        "--hardware rtx4091": "Did you mean 'RTX 4090'",
        "--hardware H100": "H100 PCIe, H100 SXM",
        "--secuence_length 3": "Did you mean '--sequence_length'",
        "--steps 3": "unknown option --steps",
        "--sequence_length 1.5": "not a whole number",
        "--sequence_length": "expected one argument",
        "128": "unexpected argument '128'",
        "--model corected": "'published', 'corrected'",
        "--hardware_file none.yaml": "cannot read none.yaml",
    },
    "llada": {
        "--block_length 48": "block_length 48 does not divide sequence_length 128",
        "--block_length 48 --model corrected": "block_length 48 does not divide",
        "--block_length 32 --steps 6": "steps (6) is not a multiple of the number of blocks (4)",
        "--sequence_length 0": "sequence_length is 0",
        "--block_length 0": "block_length is 0",
        "--steps 0": "steps is 0",
        "--input_prompt_length -3": "input_prompt_length is -3",
    },
}


@pytest.mark.parametrize(("program", "line"), [(p, line) for p, lines in BAD.items() for line in lines])
def test_bad_input_is_one_line_and_exit_code_2(program, line):
    out, err = io.StringIO(), io.StringIO()
    assert run(program, line.split(), out, err) == 2
    assert not out.getvalue()
    assert BAD[program][line] in err.getvalue()
    assert err.getvalue().count("\n") == 1


def test_the_programs_run_from_any_folder_without_heavy_imports(tmp_path):
    script = ROOT / "run_llada_roofline_model.py"
    code = (
        "import runpy, sys; sys.argv = ['x', '--model', 'corrected']\n"
        f"try: runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "except SystemExit as e: assert not e.code\n"
        "assert not {'torch', 'numpy', 'scipy', 'pydantic', 'yaml'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "floor:" in done.stdout
    bad = subprocess.run(
        [sys.executable, script, "--steps", "0"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (bad.returncode, bad.stdout) == (2, "")
