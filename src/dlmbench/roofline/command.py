"""The two roofline programs: options, their checks, and the listing or JSON they print.

Their options, printed form and defaults are published and stay as they are; `published` is the default model.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NoReturn, TextIO

from dlmbench.errors import BenchError, did_you_mean
from dlmbench.roofline import corrected, memory, published
from dlmbench.roofline.hardware import Hardware, find, load_rows
from dlmbench.roofline.models_8b import LLADA_8B, LLAMA_8B, cell
from dlmbench.types import Architecture

Program = Literal["llama", "llada"]
LONGEST = 2**20
_TITLES = {"llama": "LLaMA-3-8B", "llada": "LLaDA-8B"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BenchError(message.replace("argument ", "", 1), "See --help")


def _parser(program: Program) -> _Parser:
    parser = _Parser(
        prog=f"run_{program}_roofline_model.py",
        description=f"Analytical cost of {_TITLES[program]}; options may be spelled with '-' or '_'.",
        add_help=False,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--input_prompt_length", type=_length, default=128, metavar="P", help="default: %(default)s")
    add("--sequence_length", type=_length, default=128, metavar="N", help="new tokens (%(default)s)")
    if program == "llada":
        add("--block_length", type=_whole, metavar="L", help="default: sequence_length")
        add("--steps", type=_whole, metavar="K", help="default: sequence_length")
    add("--batch_size", type=_whole, default=1, metavar="B", help="default: %(default)s")
    add("--hardware", default=published.PUBLISHED_A6000.device, metavar="NAME", help="default: %(default)s")
    add("--hardware_file", metavar="YAML", help="a file with devices of your own")
    add("--model", choices=("published", "corrected"), default="published", help="default: %(default)s")
    add("--json", action="store_true", help="write JSON instead of the listing")
    add("-h", "--help", action="store_true", help="show this")
    return parser


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None


def _length(text: str) -> int:
    value = _whole(text)
    if value > LONGEST:
        raise argparse.ArgumentTypeError(f"{value} is more than {LONGEST}, the longest that is computed")
    return value


def _options(program: Program, arguments: Sequence[str]) -> tuple[argparse.Namespace, _Parser]:
    parser = _parser(program)
    spelled = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        spelled.append(f"--{name[2:].replace('-', '_')}{equals}{value}" if argument.startswith("--") else argument)
    options, unknown = parser.parse_known_args(spelled)
    if unknown:
        name = unknown[0].partition("=")[0]
        known = [o for a in parser._actions for o in a.option_strings if o.startswith("--") and o != "--help"]
        if name.startswith("-"):
            raise BenchError(f"unknown option {name}", did_you_mean(name, known))
        raise BenchError(f"unexpected argument '{name}'", f"Options: {', '.join(known)}")
    return options, parser


def text_of(program: Program, arguments: Sequence[str]) -> str:
    """The program's output for these command-line arguments, without a final line break.

    Raises:
        BenchError: any bad input.
    """
    options, parser = _options(program, arguments)
    if options.help:
        return parser.format_help().rstrip()
    rows = load_rows(Path(options.hardware_file) if options.hardware_file else None)
    hardware = find(options.hardware, rows)
    architecture = LLAMA_8B if program == "llama" else LLADA_8B
    prompt, new, batch = options.input_prompt_length, options.sequence_length, options.batch_size
    # The published model's checks apply to both models.
    rates = published.rates_of(hardware)
    if program == "llama":
        llama_run = published.llama(architecture, rates, prompt, new, batch)
        values, text = _llama_values(llama_run), published.llama_text(llama_run)
    else:
        options.block_length = new if options.block_length is None else options.block_length
        options.steps = new if options.steps is None else options.steps
        run = published.llada(architecture, rates, prompt, new, options.block_length, options.steps, batch)
        blocks = [asdict(block) for block in run.blocks]
        values = {"total_s": run.total_s, "aggregate_intensity": run.intensity, "blocks": blocks}
        text = published.llada_text(run)
    if options.model == "corrected":
        return _corrected(options, hardware, architecture)
    return _json(options, rates, values) if options.json else text


_SHOWN = ("model", "input_prompt_length", "sequence_length", "block_length", "steps", "batch_size")


def _json(options: argparse.Namespace, device: published.Rates | Hardware, values: Mapping[str, object]) -> str:
    asked = {k: getattr(options, k) for k in _SHOWN if hasattr(options, k)}
    return json.dumps(asked | {"hardware": asdict(device)} | dict(values), indent=2)


def _llama_values(run: published.LlamaAnalysis) -> dict[str, object]:
    def phase(cost: published.Cost | None) -> dict[str, object] | None:
        if cost is None:
            return None
        return {
            "total_s": cost.total_s,
            **asdict(cost),
            "linear_intensity": cost.linear_intensity,
            "attention_intensity": cost.intensity("MHA Attention"),
            "aggregate_intensity": cost.intensity(),
        }

    return {"total_s": run.total.total_s, "prefill": phase(run.prefill), "decode": phase(run.decode)}


def _corrected(options: argparse.Namespace, hardware: Hardware, architecture: Architecture) -> str:
    knobs = {k: getattr(options, k) for k in ("block_length", "steps") if hasattr(options, k)}
    shape = (options.batch_size, options.input_prompt_length, options.sequence_length)
    one = cell(architecture, "hf", shape, **knobs)
    total = corrected.compulsory(one, architecture, hardware.cache_bytes)
    ideal = corrected.latency_s(one, architecture, hardware, corrected.IDEAL)
    predicted = corrected.predict(one, architecture, hardware)
    split = memory.split(one, architecture)
    assert total is not None
    assert split is not None
    values = {
        "forwards": total.forwards,
        "flops": total.flops,
        "compulsory_bytes": total.bytes,
        "floor_s": predicted.floor_s,
        "ideal_s": ideal,
        "expected_s": predicted.latency_s,
        "peak_bytes": split.total,
        "memory": asdict(split),
    }
    if options.json:
        return _json(options, hardware, values)
    assert ideal is not None
    assert predicted.latency_s is not None
    assert predicted.floor_s is not None
    schedule = "".join(f", {k.replace('_', ' ')} {v}" for k, v in knobs.items())
    name = _TITLES["llama" if architecture.is_causal else "llada"]
    fits = "fits" if split.total <= hardware.memory_bytes else "does not fit"
    return "\n".join(
        [
            f"{name} on {hardware.name}, corrected roofline (bfloat16, flash attention, plain transformers)",
            f"prompt {shape[1]}, new tokens {shape[2]}, batch {shape[0]}{schedule}: {total.forwards:.0f} forwards",
            "",
            f"floor:    {predicted.floor_s:.6f} s   max of FLOPs and bytes below at the data sheet's rates",
            f"          {total.flops:.6e} FLOPs, {total.bytes:.6e} bytes (weights, cache), head on chosen tokens",
            f"roofline: {ideal:.6f} s   each operator at its own limit, head where the engine evaluates it",
            f"expected: {predicted.latency_s:.6f} s   with efficiencies measured on one H200 (docs/roofline.md)",
            f"memory:   {split.total / 1e9:.3f} GB   weights {split.weights / 1e9:.3f}, cache {split.cache / 1e9:.3f},"
            f" logits {split.logits / 1e9:.3f}, activations {split.activations / 1e9:.3f}:"
            f" {fits} in {hardware.memory_bytes / 1e9:.0f} GB",
            f"rates:    {hardware.bf16_flops / 1e12:g} TFLOP/s, {hardware.bandwidth / 1e9:g} GB/s"
            f" ({hardware.source}, {hardware.date})",
        ]
    )


def run(program: Program, arguments: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Write the program's output to `out`, or an error of one line to `err`; returns the exit code."""
    try:
        out.write(text_of(program, arguments) + "\n")
        out.flush()
    except BenchError as error:
        err.write(f"error: {error}\n".replace("\n", " ").rstrip() + "\n")
        return 2
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
    return 0
