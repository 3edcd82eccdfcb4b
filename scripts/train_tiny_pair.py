"""Train, export and evaluate the tiny pair: two small models of the story corpus, one autoregressive, one LLaDA.

Four commands, in this order; `corpus` may run at the same time as `train`, which waits for the stories that it needs:

corpus     write the training stories as token ids
train      train one model; with --stop-after-seconds the run stops early and the same command resumes it
export     write a trained model as a checkpoint folder (bf16 weights), after a comparison with transformers
evaluate   likelihoods of held-out stories under an exported model, in fp32 arithmetic; added to its training.json

Batches, masks and learning rates are functions of the step number, so a rerun gives the same result. In practice
training needs a GPU: minutes there, days on a CPU. The model cards of the checkpoints list the exact commands.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import torch
from tiny_pair import likelihood
from tiny_pair.corpus import StoryReader, write_corpus
from tiny_pair.export import difference_from_transformers, export, load_exported
from tiny_pair.model import Shape, Transformer
from tiny_pair.training import Run, load_weights, train

from dlmbench.tiny.oracle import score_story
from dlmbench.tiny.story import heldout_stories, story_of
from dlmbench.tiny.vocabulary import encode

PROMPT, CONTINUATION = 64, 64
STEP_COUNTS = (1, 2, 4, 8, 16, 32, 64)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _validation(paradigm: str, device: torch.device, windows: int) -> Callable[[Transformer], float]:
    """Nats per word on the validation set: exact for AR, the ELBO with 16 draws (always the same masks) for LLaDA."""
    stories = [encode(story_of("validation", index, PROMPT + CONTINUATION)) for index in range(windows)]
    tokens = torch.tensor(stories, device=device)
    if paradigm == "ar":
        return lambda model: likelihood.autoregressive_losses(model, tokens, PROMPT).mean().item()
    return lambda model: likelihood.elbo_losses(model, tokens, PROMPT, 16, seed=1).mean().item() / CONTINUATION


def _train(arguments: argparse.Namespace) -> None:
    device = torch.device(arguments.device)
    run = Run(
        paradigm=arguments.paradigm,
        steps=arguments.steps,
        tokens_per_step=arguments.tokens_per_step,
        curriculum=arguments.low_noise_first,
        seed=arguments.seed,
        optimizer=arguments.optimizer,
        matrix_rate=arguments.matrix_rate,
        matrix_decay=arguments.matrix_decay,
        other_rate=arguments.other_rate,
        lengths=tuple(arguments.lengths),
    )
    reader = StoryReader(arguments.corpus, arguments.chunks, device)
    validate = _validation(run.paradigm, device, arguments.validation_windows)
    complete = train(
        run, reader, arguments.state, device, arguments.stop_after_seconds, validate, arguments.validate_every,
        lambda text: _log(f"{arguments.state.name}: {text}"),
    )  # fmt: skip
    _log(f"{arguments.state.name}: {'complete' if complete else 'to be resumed'}")


def _export(arguments: argparse.Namespace) -> None:
    saved = json.loads((arguments.state / "progress.json").read_text())
    run, progress = saved["run"], saved["progress"]
    shape = Shape(**run["shape"])
    export(run["paradigm"], shape, load_weights(arguments.state, torch.device("cpu")), arguments.to)
    shipped = load_exported(run["paradigm"], shape, arguments.to, torch.device("cpu"))
    tokens = torch.tensor([encode(story_of("validation", index)) for index in range(4)])
    difference = difference_from_transformers(run["paradigm"], shape, shipped, tokens)
    if difference > 1e-3:
        raise SystemExit(f"the exported logits differ from transformers' by {difference}")
    record = {
        "run": run,
        "parameters": sum(tensor.numel() for tensor in shipped.values()),
        "steps_done": progress["step"],
        "words": progress["words"],
        "distinct_stories": arguments.distinct_stories,
        "seconds": round(progress["seconds"], 1),
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "torch": torch.__version__,
        "largest_logit_difference_from_transformers": difference,
        "history": progress["history"],
    }
    (arguments.to / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def _interval(sums: torch.Tensor) -> dict[str, float]:
    """Mean nats per word of per-window sums, and the half-width of its 95% confidence interval over windows."""
    per_word = sums.double() / CONTINUATION
    return {"nats": per_word.mean().item(), "half_width": 1.96 * per_word.std().item() / len(per_word) ** 0.5}


def _likelihoods(paradigm: str, model: Transformer, tokens: torch.Tensor, seeds: int, draws: int) -> dict[str, object]:
    if paradigm == "ar":
        return {"exact": _interval(likelihood.autoregressive_losses(model, tokens, PROMPT).sum(1))}

    def sampler(steps: int, **options: int) -> torch.Tensor:
        return likelihood.sampler_losses(model, tokens, PROMPT, steps, **options).sum(1)

    def random_order(steps: int) -> torch.Tensor:
        return torch.stack([sampler(steps, random_seed=seed) for seed in range(seeds)]).mean(0)

    return {
        "elbo": _interval(likelihood.elbo_losses(model, tokens, PROMPT, draws, seed=0).mean(1)),
        "elbo_draws": draws,
        "random": {steps: _interval(random_order(steps)) for steps in STEP_COUNTS},
        "random_order_seeds": seeds,
        "confidence": {steps: _interval(sampler(steps)) for steps in STEP_COUNTS},
        "confidence_block_16": {steps: _interval(sampler(steps, block=16)) for steps in STEP_COUNTS if steps >= 4},
    }


def _evaluate(arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    device = torch.device(arguments.device)
    record_path = arguments.folder / "training.json"
    record = json.loads(record_path.read_text())
    shape, paradigm = Shape(**record["run"]["shape"]), record["run"]["paradigm"]
    weights = load_exported(paradigm, shape, arguments.folder, device)
    model = Transformer(shape, weights, paradigm == "ar", torch.float32)
    windows = heldout_stories(arguments.windows, PROMPT + CONTINUATION)
    tokens = torch.tensor([encode(words) for words in windows], device=device)
    scores = [score_story(words, start=PROMPT) for words in windows]
    record["evaluation"] = {
        "windows": arguments.windows,
        "prompt_words": PROMPT,
        "continuation_words": CONTINUATION,
        "arithmetic": "bf16 weights, fp32 arithmetic",
        "oracle_nats": -fmean(score.log_prob for score in scores) / CONTINUATION,
        "oracle_path_entropy": fmean(score.path_entropy for score in scores) / CONTINUATION,
        **_likelihoods(paradigm, model, tokens, arguments.random_order_seeds, arguments.elbo_draws),
    }
    record_path.write_text(json.dumps(record, indent=1) + "\n")
    _log(f"evaluated {arguments.folder.name} in {time.monotonic() - started:.0f} s")
    print(json.dumps(record["evaluation"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    default_device = "cuda" if torch.cuda.is_available() else "cpu"

    corpus = commands.add_parser("corpus", help="write the training stories")
    corpus.add_argument("--corpus", type=Path, required=True, help="folder for the stories")
    corpus.add_argument("--chunks", type=int, default=800, help="files with 4096 stories each (default: %(default)s)")
    corpus.add_argument("--workers", type=int, default=os.cpu_count() or 1)

    training = commands.add_parser("train", help="train one model, or resume it")
    training.add_argument("paradigm", choices=("ar", "llada"))
    training.add_argument("--corpus", type=Path, required=True, help="folder with the stories")
    training.add_argument("--chunks", type=int, default=800, help="number of files to cycle through")
    training.add_argument("--state", type=Path, required=True, help="folder for the resumable state")
    training.add_argument("--steps", type=int, required=True)
    training.add_argument("--tokens-per-step", type=int, default=98304)
    training.add_argument("--lengths", type=int, nargs="+", default=(192, 128, 192, 128, 96), help="used in turn")
    training.add_argument("--low-noise-first", action="store_true", help="the curriculum over masking rates (LLaDA)")
    training.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    training.add_argument("--matrix-rate", type=float, default=0.015, help="Muon's learning rate")
    training.add_argument("--matrix-decay", type=float, default=0.03, help="Muon's weight decay, times its rate")
    training.add_argument("--other-rate", type=float, default=2e-3, help="AdamW's learning rate")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--device", default=default_device)
    training.add_argument("--stop-after-seconds", type=float, default=float("inf"), help="stop after about this time")
    training.add_argument("--validate-every", type=int, default=1000, help="steps; a multiple of 50")
    training.add_argument("--validation-windows", type=int, default=512)

    exporting = commands.add_parser("export", help="write a checkpoint folder")
    exporting.add_argument("--state", type=Path, required=True)
    exporting.add_argument("--to", type=Path, required=True)
    exporting.add_argument("--distinct-stories", type=int, help="stories in the corpus, for training.json")

    evaluating = commands.add_parser("evaluate", help="held-out likelihoods of a checkpoint folder")
    evaluating.add_argument("--folder", type=Path, required=True)
    evaluating.add_argument("--windows", type=int, default=256)
    evaluating.add_argument("--random-order-seeds", type=int, default=4, help="random orders to average over")
    evaluating.add_argument("--elbo-draws", type=int, default=128, help="a multiple of 16")
    evaluating.add_argument("--device", default=default_device)
    return parser


def main() -> None:
    """Run one command."""
    arguments = _parser().parse_args()
    if arguments.command == "corpus":
        write_corpus(arguments.corpus, arguments.chunks, arguments.workers)
    else:
        {"train": _train, "export": _export, "evaluate": _evaluate}[arguments.command](arguments)


if __name__ == "__main__":
    main()
