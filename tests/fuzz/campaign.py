"""Broken and hostile files, hundreds of each kind: accepted or refused with a message, never anything else.

    python tests/fuzz/campaign.py [--inputs 22000]    # writes the table of docs/reliability.md

Each input is a good file with a few changes: values and keys of its structure, or bytes. It is read in this process as
a command reads it, and the report of an accepted run folder is composed. A traceback, more than LONGEST_S seconds, a
stranger's script in a report, or a file opened for writing, made, renamed or removed anywhere is a failure.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import vl_convert
import yaml

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from tables import markdown, write_part  # noqa: E402

import dlmbench  # noqa: E402
from dlmbench import prompts  # noqa: E402
from dlmbench.analysis import study  # noqa: E402
from dlmbench.analysis.published import read_published  # noqa: E402
from dlmbench.errors import BenchError  # noqa: E402
from dlmbench.experiment import load, plan  # noqa: E402
from dlmbench.models import checkpoint  # noqa: E402
from dlmbench.report import document, page  # noqa: E402
from dlmbench.report.source import Source  # noqa: E402
from dlmbench.results import read_run  # noqa: E402
from dlmbench.results.selfcheck import read_selfcheck  # noqa: E402
from dlmbench.roofline.calibrate import calibrate_run, load_calibration  # noqa: E402
from dlmbench.roofline.hardware import load_rows  # noqa: E402
from dlmbench.types import PromptSettings, StoredGeneration, TextScore  # noqa: E402

LONGEST_S = 20
CHECKPOINT = Path(dlmbench.__file__).parent / "tiny/checkpoints/llada"
RUN = ROOT / "docs/study/instrument/cpu-tiny-1"
HUGE = "x" * 100_000
SCRIPT = "</script><script>stranger()</script>"
JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, 10**400, -(2**63), 1e308, -0.0, 0.5),
    *(float("nan"), float("inf"), "", " ", "\x00", "a\nb", "../../etc/passwd", "/etc/passwd", "~", "$HOME", "\ud800"),
    *(
        "\u2028",
        "\ufeff",
        "null",
        "1e3",
        "0x10",
        "010",
        "1_000",
        SCRIPT,
        "=1+1",
        HUGE,
        [],
        {},
        [[]],
        [None],
        {"": 0},
    ),
    *({"a": {"b": {"c": []}}}, [1] * 5000, ["a", 1, None], "é" * 300, "模型", "$\\frac{1}{2}$", "%s%n{}{0}"),
)


class TooSlowError(BaseException):
    """An input took too long. No `except Exception` of the code under test may take it for an error of its own."""


class Writes:
    """What this process does to files, from the interpreter's audit events; `seen` while `is_watching`."""

    EVENTS = frozenset(
        {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
        | {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"}
    )

    def __init__(self) -> None:
        self.is_watching, self.seen = False, list[str]()

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        """An audit hook, which stays for as long as the process lives."""
        if not self.is_watching:
            return
        if event == "open":
            path, _, flags = arguments
            is_write = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if not is_write or path == os.devnull:
                return
        elif event not in self.EVENTS:
            return
        if any("__pycache__" in str(a) for a in arguments):  # a module is imported for the first time
            return
        self.seen.append(f"{event} {arguments}")


@cache
def writes() -> Writes:
    """The hook, installed once."""
    hook = Writes()
    sys.addaudithook(hook)
    return hook


@dataclass(frozen=True)
class Target:
    """One kind of file. prepare: write a good one into a folder, and return its path. read: as a command reads it.

    parse, dump: of its structure, where that is what is changed in most inputs. change: in place of both.
    """

    name: str
    prepare: Callable[[Path], Path]
    read: Callable[[Path], object]
    parse: Callable[[str], Any] | None = None
    dump: Callable[[Any], str] | None = None
    change: Callable[[bytes, random.Random], bytes] | None = None
    share: float = 1


def changed(value: Any, draw: random.Random) -> Any:
    """A structure with one to four changes."""
    root = {"": copy.deepcopy(value)}
    for _ in range(draw.randint(1, 4)):
        places = [(root, "")]
        for holder, key in places:
            inner = holder[key]  # type: ignore[index]
            if isinstance(inner, dict):
                places += [(inner, k) for k in inner]
            elif isinstance(inner, list) and len(inner) < 300:
                places += [(inner, i) for i in range(len(inner))]  # type: ignore[misc]
        holder, key = draw.choice(places)
        texts = [(h, k) for h, k in places if isinstance(h[k], str)]  # type: ignore[index]
        kind = draw.randrange(6)
        if kind == 5 and texts:
            holder, key = draw.choice(texts)
            holder[key] += SCRIPT
        elif kind == 0 and key != "":
            del holder[key]
        elif kind == 1 and isinstance(holder[key], dict):
            holder[key][draw.choice(("extra", "", "__class__", "steps", HUGE[:50]))] = draw.choice(JUNK)
        elif kind == 2:
            holder[key] = [holder[key]] * draw.randint(0, 3)
        else:
            holder[key] = copy.deepcopy(draw.choice(JUNK))
    return root[""]


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Bytes with a few changes: replaced, removed, repeated, cut, or with something unwelcome put in."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        at, kind = draw.randrange(len(out) + 1), draw.randrange(6)
        if kind == 0 and out:
            out[min(at, len(out) - 1)] = draw.randrange(256)
        elif kind == 1:
            del out[at : at + draw.randint(1, 200)]
        elif kind == 2:
            out[at:at] = out[at : at + draw.randint(1, 400)] * draw.randint(1, 4)
        elif kind == 3:
            out = out[:at]
        elif kind == 4:
            out[at:at] = draw.choice(
                (
                    b"\x00",
                    b"\xff\xfe",
                    b"\xef\xbb\xbf",
                    b"\xe2\x80\xa8",
                    b"\xed\xa0\x80",
                    b"{" * 3000,
                    b"[" * 3000,
                    b"&a *a",
                    b"\r",
                    b"\t",
                    b"9" * 5000,
                    b"!!python/object/apply:os.system ['true']",
                    b'"',
                    b"\\u0000",
                    b" " * 1000,
                )
            )
        else:
            out[at:at] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 20)))
    return bytes(out)


def impossible_number(data: bytes, draw: random.Random) -> bytes:
    """A log in which one number of one record, of a kind drawn first, is one that no clock or counter gives."""
    lines = [json.loads(line) for line in data.splitlines()]
    kind = draw.choice(sorted({str(line.get("kind")) for line in lines}))
    record = draw.choice([line for line in lines if str(line.get("kind")) == kind])
    places = [(part, key) for part in _parts(record) for key in part if type(part[key]) in (int, float)]
    if places:
        part, key = draw.choice(places)
        part[key] = draw.choice((0, -1, 1e-320, 1e-40, 1e49, -1e49, 1e200, 1e308, -1e308, 10**400, math.nan, math.inf))
    return _joined(lines).encode()


def _parts(value: Any) -> Iterator[dict[Any, Any]]:
    """A record and the mappings in it."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _parts(inner)


def hostile_header(data: bytes, draw: random.Random) -> bytes:
    """A safetensors file whose header lies about its tensors, or about its own length."""
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    good = copy.deepcopy(header)
    names = [name for name in header if name != checkpoint.METADATA]
    for _ in range(draw.randint(0, 2)):
        tensor, (low, high) = header[draw.choice(names)], good[draw.choice(names)]["data_offsets"]
        lies = (
            {"data_offsets": [2**62, 2**63]},
            {"data_offsets": [0, 2**70]},
            {"data_offsets": [0, draw.choice([math.inf, high + 0.5])]},
            {"data_offsets": [low, high]},  # of another tensor
            {"data_offsets": [high, low]},
            {"data_offsets": [-8, high]},
            {"data_offsets": [low + 1, high + 1]},
            {"data_offsets": draw.choice(JUNK)},
            {"data_offsets": [draw.choice(JUNK), draw.choice(JUNK)]},
            {"shape": [-1, *good[names[0]]["shape"]]},
            {"shape": [-2, -2]},
            {"shape": [2**40, 2**40]},
            {"shape": [0]},
            {"shape": draw.choice(JUNK)},
            {"dtype": draw.choice(("I64", "F64", "F8_E4M3", "BOOL", "", "x", 1, None))},
        )
        tensor |= draw.choice(lies)
        if draw.random() < 0.1:
            tensor.pop(draw.choice(list(tensor)))
    text = json.dumps(header, default=str)
    if draw.random() < 0.2:
        deep, closed = draw.choice((('{"a":', "}"), ("[", "]")))
        depth = draw.choice((100, 5_000, 100_000))
        at = draw.choice(("__metadata__", "x", names[0]))
        text = f'{text[:-1]}, "{at}": {deep * depth}0{closed * depth if draw.random() < 0.7 else ""}}}'
    raw = text.encode("utf-8", "surrogatepass")
    told = len(raw)
    if draw.random() < 0.3:
        told = draw.choice((0, 1, told - 1, told + 1, len(data), 10 * len(data), 99_999_999, 2**31, 2**63, 2**64 - 1))
    return told.to_bytes(8, "little") + raw + body[: draw.choice((len(body), len(body), len(body) // 2, 0))]


def _file(name: str, source: Path) -> Callable[[Path], Path]:
    def prepare(folder: Path) -> Path:
        return Path(shutil.copy(source, folder / name))

    return prepare


def _folder(source: Path, changed_file: str, *names: str) -> Callable[[Path], Path]:
    def prepare(folder: Path) -> Path:
        for name in (changed_file, *names):
            shutil.copy(source / name, folder / name)
        return folder / changed_file

    return prepare


def _text(name: str, text: str) -> Callable[[Path], Path]:
    def prepare(folder: Path) -> Path:
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return prepare


def _experiment(path: Path) -> None:
    plan.expand(load.load(path))


def _prompts(path: Path) -> None:
    settings = PromptSettings("file", None, str(path))
    prompts.take(settings, prompts.BYTES, 8, 4, (), references=False)


def _checkpoint(path: Path) -> None:
    import torch

    arch = checkpoint.inspect(path.parent)
    checkpoint.weight_map(path.parent)
    if arch.parameters < 50_000_000:
        for _ in checkpoint.tensors(path.parent, arch, torch.device("cpu"), torch.float32):
            pass


def _tokenizer(path: Path) -> None:
    from dlmbench.models.tokenizer import CheckpointTokenizer

    CheckpointTokenizer(path.parent).encode("The fox.")


def _run_folder(changed_file: str) -> Callable[[Path], Path]:
    """A run of the embedded pair, with a text and a score of each cell."""

    def prepare(folder: Path) -> Path:
        vl_convert.javascript_bundle(None)  # made once, which may take long
        for name in ("records.jsonl", "experiment.json"):
            shutil.copy(RUN / name, folder / name)
        cells = [line["id"] for line in _lines((RUN / "records.jsonl").read_text()) if line["kind"] == "cell"]
        texts = [StoredGeneration(c, 0, "h", (1, 2), "the fox went home", 4, None, 17) for c in cells]
        scores = [TextScore(c, "likelihood", 0, 14.0 + i, 16, 83, 16) for i, c in enumerate(cells)]
        for name, records in (("generations.jsonl", texts), ("scores.jsonl", scores)):
            (folder / name).write_text(_joined([asdict(r) for r in records]))
        return folder / changed_file

    return prepare


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def _joined(records: list[Any]) -> str:
    return "".join(json.dumps(record, default=str) + "\n" for record in records)


def _run(path: Path) -> None:
    run = read_run(path.parent)
    source = Source(run, study.analyse(run, draws=20))
    if crc32(path.read_bytes()) % 10:
        vars(source)["figures"] = ()  # which take seconds to draw
    for text in (page.compose(source), document.compose(source)):
        assert "<script>stranger" not in text, "the report of a stranger's run must be safe to open"


def _calibration(folder: Path) -> Path:
    return _text("c.json", _calibrated())(folder)


@cache
def _calibrated() -> str:
    return calibrate_run(read_run(ROOT / "docs/study/h200-native")).to_json()


CONFIGS = sorted((ROOT / "config").glob("experiments*.yaml"))
HARDWARE = "- name: My GPU\n  memory_gb: 24\n  bandwidth_gb_s: 1008\n  bf16_tflops: 165\n  fp32_tflops: 83\n"
PASSAGES = "\n\n".join(f"Passage {i} has a few words about a fox, a door and the rain." for i in range(9))
RECORDS = "".join(
    json.dumps({"prompt": f"{i}: the fox went", "reference": " home in the rain"}) + "\n" for i in range(9)
)
PUBLISHED = ROOT / "docs/study/published.csv"
JSON = {"parse": json.loads, "dump": lambda v: json.dumps(v, default=str)}
YAML = {"parse": yaml.safe_load, "dump": lambda v: yaml.safe_dump(v, allow_unicode=True)}
LINES = {"parse": _lines, "dump": _joined}
WEIGHTS = _folder(CHECKPOINT, "model.safetensors", "config.json")
TARGETS = (
    *(
        Target(f"experiment file ({c.stem[12:] or 'primary'})", _file("e.yaml", c), _experiment, **YAML)
        for c in CONFIGS
    ),
    Target("prompt file, text", _text("p.txt", PASSAGES), _prompts, share=3),
    Target("prompt file, JSON records", _text("p.jsonl", RECORDS), _prompts, share=3),
    Target("config.json", _folder(CHECKPOINT, "config.json", "model.safetensors"), _checkpoint, **JSON, share=3),
    Target("weights", WEIGHTS, _checkpoint),
    Target("weights, false headers", WEIGHTS, _checkpoint, change=hostile_header),
    Target("tokenizer.json", _folder(CHECKPOINT, "tokenizer.json", "config.json"), _tokenizer, **JSON, share=2),
    Target("published scores", _file("p.csv", PUBLISHED), read_published, share=3),
    Target("hardware file", _text("h.yaml", HARDWARE), load_rows, **YAML, share=3),
    Target(
        "self-check",
        _file("s.json", ROOT / "docs/study/instrument/selfcheck-h200-b.json"),
        read_selfcheck,
        **JSON,
        share=2,
    ),
    Target("calibration", _calibration, load_calibration, **JSON),
    *(
        Target(f"run folder, {name}", _run_folder(name), _run, **LINES, share=0.5)
        for name in ("records.jsonl", "generations.jsonl", "scores.jsonl")
    ),
    *(
        Target(f"run folder, numbers of {name}", _run_folder(name), _run, change=impossible_number, share=0.5)
        for name in ("records.jsonl", "scores.jsonl")
    ),
    Target("run folder, experiment.json", _run_folder("experiment.json"), _run, **JSON, share=0.5),
)


def _alarm(*_: object) -> None:
    raise TooSlowError


def contents(folder: Path) -> dict[Path, bytes | None]:
    """Every file in a folder and what it holds; for code that writes without Python's knowledge."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def fuzz(target: Target, inputs: int, seed: int) -> tuple[int, int]:
    """How many of `inputs` were accepted and refused. Any other exception goes on, with the input's path kept."""
    draw = random.Random(f"{target.name}:{seed}")
    accepted = refused = 0
    signal.signal(signal.SIGALRM, _alarm)
    watched = writes()
    with tempfile.TemporaryDirectory() as around:
        for number in range(inputs):
            folder = Path(around) / "input"
            folder.mkdir()
            path = target.prepare(folder)
            data = path.read_bytes()
            if target.change:
                data = target.change(data, draw)
            elif target.parse and target.dump and draw.random() < 0.6:
                try:
                    data = target.dump(changed(target.parse(data.decode()), draw)).encode("utf-8", "surrogatepass")
                except (ValueError, TypeError, RecursionError, yaml.YAMLError):
                    data = mutated(data, draw)
            elif len(data) > 100_000:  # weights: the header and the first tensors
                data = mutated(data[:60_000], draw) + data[60_000:]
            else:
                data = mutated(data, draw)
            path.write_bytes(data)
            before = contents(Path(around))
            watched.seen.clear()
            signal.alarm(LONGEST_S)
            watched.is_watching = True
            try:
                with chdir(around):
                    target.read(path)
                accepted += 1
            except BenchError:
                refused += 1
            except BaseException:
                kept = Path(tempfile.gettempdir()) / f"fuzz-{target.name.split()[0]}-{number}"
                shutil.copytree(folder, kept, dirs_exist_ok=True)
                sys.stderr.write(f"{target.name}, input {number} of seed {seed}: kept in {kept}\n")
                raise
            finally:
                watched.is_watching = False
                signal.alarm(0)
            assert not watched.seen, (target.name, number, watched.seen)
            assert contents(Path(around)) == before, (target.name, number, "reading writes nothing")
            shutil.rmtree(folder)
    return accepted, refused


def main() -> None:
    """Fuzz every kind and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inputs", type=int, default=22_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="kinds whose name begins like this")
    options = parser.parse_args()
    shares = sum(t.share for t in TARGETS)
    rows = []
    for target in TARGETS:
        if options.only and not target.name.startswith(options.only):
            continue
        began = time.monotonic()
        inputs = math.ceil(options.inputs * target.share / shares)
        accepted, refused = fuzz(target, inputs, options.seed)
        rows.append((target.name, inputs, accepted, refused))
        sys.stderr.write(f"{rows[-1]} {time.monotonic() - began:.0f} s\n")
    text = markdown(("file", "inputs", "accepted", "refused with a message"), rows)
    sys.stdout.write(text + "\n")
    if not options.only:
        write_part(ROOT / "docs/reliability.md", "fuzz", text)


if __name__ == "__main__":
    main()
