"""What commands share: the application, options that several of them take, and loading an experiment with them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer import Argument, Option
from typer.core import TyperCommand, TyperGroup

import dlmbench
from dlmbench.errors import BenchError
from dlmbench.types import home_expanded

if TYPE_CHECKING:
    from dlmbench.types import Experiment, Plan


def respelled(argument: str, old: str, new: str) -> str:
    """An option with `old` replaced by `new` in its name, as `--batch_size=4` by `--batch-size=4`."""
    name, sign, value = argument.partition("=")
    return f"--{name[2:].replace(old, new)}{sign}{value}" if name.startswith("--") else argument


class _Group(TyperGroup):
    """The program. Options may be written with `_` for `-`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line, that of the command included."""
        return super().parse_args(ctx, [respelled(argument, "_", "-") for argument in args])


app = typer.Typer(
    name="dlmbench",
    help="Compare masked-diffusion and autoregressive language models: speed, memory, energy and quality.",
    epilog="Start with `dlmbench demo`; `dlmbench COMMAND --help` shows options and an example.",
    no_args_is_help=True,
    cls=_Group,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dlmbench {dlmbench.__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    pass


# What values with these names in the help stand for.
_PATHS = {"FILE": "file", "MODEL": "model", **dict.fromkeys(("DIR", "RUN", "RUN1", "RUN2", "SHARD"), "folder")}


class _Command(TyperCommand):
    """A command whose options the shell completes with `_` as well as with `-`, and whose paths are not empty.

    Its help shows an argument as RUN, where typer would show {RUN} and its Python type.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line of the command. A path of "" would be the working folder, which has the name "."."""
        given, _, _ = self.make_parser(ctx).parse_args(args=[*args])
        for parameter in self.params:
            values, kind = given.get(parameter.name or ""), _PATHS.get(str(parameter.metavar))
            if kind and "" in (values if isinstance(values, list | tuple) else (values,)):
                name = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
                raise BenchError(f"{name} is empty and names no {kind}", "Name one; is a variable of the shell unset?")
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Completions of a word, spelled as it is."""
        found = super().shell_complete(ctx, respelled(incomplete, "_", "-"))
        for item in found if "_" in incomplete else ():
            item.value = respelled(item.value, "-", "_")
        return found

    def get_help(self, ctx: Any) -> str:
        """The text of --help."""
        text = re.sub(r"(?m)^( +\S+) <[\w\[\]]+>", lambda match: match[1].ljust(len(match[0])), super().get_help(ctx))
        return re.sub(r"\{(\w+)\}", r"\1", text)


def command(**settings: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function to the program as a command, with --quiet and --verbose."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        parameters = _parameters(function)

        @functools.wraps(function)
        def configured(quiet: bool = False, verbose: bool = False, **values: Any) -> None:
            from dlmbench.cli import console

            console.configure(quiet=quiet, verbose=verbose)
            function(**{name: _expanded(value) for name, value in values.items()})

        _set_parameters(configured, [*parameters.values(), *_parameters(_verbosity).values()])
        return app.command(cls=_Command, **settings)(configured)

    return add


def _expanded(value: Any) -> Any:
    """A path, or paths, with ~ expanded, which the shell does not do in --option=~/path; anything else unchanged."""
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    return home_expanded(value) if isinstance(value, Path) else value


def _verbosity(
    quiet: Annotated[bool, Option("--quiet", "-q", help="print only the answer and errors")] = False,
    verbose: Annotated[bool, Option("--verbose", "-v", help="also print what the libraries log")] = False,
) -> None:
    """The options of every command."""


Config = Annotated[Path, Option("--config", "-c", metavar="FILE", help="experiment file; annotated ones in config/")]
OutputDir = Annotated[Path, Option("--output-dir", "-o", metavar="DIR", help="run folder; an existing one is resumed")]
MaxPrompts = Annotated[str | None, Option(metavar="N", help="use at most N prompts")]
KnobOption = Annotated[
    list[str] | None,
    Option("--knob", metavar="KNOB=V[,V...]", help="set any sampler knob; see `dlmbench list samplers`"),
]
HardwareName = Annotated[
    str | None, Option("--hardware", metavar="NAME", help="device to use for predictions, such as h200")
]
HardwareFile = Annotated[
    Path | None, Option("--hardware-file", metavar="FILE", help="YAML file that describes further devices")
]
Extend = Annotated[
    bool, Option("--extend", help="add to a run folder that was measured with other prompts, seed or protocol")
]
RunFolder = Annotated[Path, Argument(metavar="RUN", help="folder of a finished run")]
AsJson = Annotated[bool, Option("--json", help="print JSON instead of tables; fields in docs/commands.md")]
Price = Annotated[float | None, Option(metavar="PRICE", help="price of one GPU hour, in any currency")]


@dataclass(frozen=True)
class ExperimentOptions:
    """An experiment file and options that override parts of it; subclasses add further ones."""

    config: Config = Path("config/experiments.yaml")
    models: Annotated[list[str] | None, Option(metavar="KEY[,KEY...]", help="only these models of the file")] = None
    steps: Annotated[list[str] | None, Option(metavar="K[,K...]", help="diffusion steps, instead of the file's")] = None
    knob: KnobOption = None

    def load(self) -> tuple[Experiment, Plan]:
        """The experiment with all options applied, and its cells."""
        from dlmbench.experiment import load as configuration
        from dlmbench.experiment import plan

        # A path that does not exist here is tried from the checkout, so that the program runs from any folder.
        checkout = Path(__file__).parents[2] / self.config
        is_elsewhere = not self.config.is_absolute() and not self.config.exists() and checkout.exists()
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("config", "knob")}
        # Values of a repeated option are joined to the equivalent comma-separated list.
        texts: dict[str, Any] = {k: ",".join(v) if isinstance(v, list) else v for k, v in values.items()}
        overrides = configuration.parse_overrides(knobs=self.knob or (), **texts)
        experiment = configuration.load(checkout if is_elsewhere else self.config, overrides)
        return experiment, plan.expand(experiment)


@dataclass(frozen=True)
class PlanOptions(ExperimentOptions):
    """Adds overrides of the grid and the prompts."""

    batch_size: Annotated[list[str] | None, Option(metavar="B[,B...]", help="batch sizes, instead of the file's")] = (
        None
    )
    seq_len: Annotated[
        list[str] | None,
        Option(metavar="N[,N...]", help="total lengths (prompt and new tokens), instead of the file's"),
    ] = None
    max_prompts: MaxPrompts = None
    prompt_file: Annotated[
        str | None, Option(metavar="FILE", help="read prompts from FILE: text lines, JSONL or paragraphs")
    ] = None


@dataclass(frozen=True)
class RunOptions(PlanOptions):
    """Adds overrides of the metrics."""

    compute_bertscore: Annotated[
        bool, Option("--compute-bertscore", help="also compute BERTScore against the references")
    ] = False


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` one command-line option for each field of its parameter `options`, an options class."""
    parameters = _parameters(command)
    options_class = parameters["options"].annotation
    fields = _parameters(options_class)
    position = list(parameters).index("options")
    names = [*list(parameters)[:position], *fields, *list(parameters)[position + 1 :]]
    expanded_parameters = [(parameters | fields)[name] for name in names]

    @functools.wraps(command)
    def expanded(**values: Any) -> None:
        options = options_class(**{name: values.pop(name) for name in fields})
        command(options=options, **values)

    _set_parameters(expanded, expanded_parameters)
    return expanded


def _set_parameters(function: Callable[..., None], parameters: list[inspect.Parameter]) -> None:
    """Make typer see these parameters."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function or dataclass as keyword-only ones, their annotations evaluated."""
    hints = get_type_hints(function, include_extras=True)
    return {
        p.name: p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name])
        for p in inspect.signature(function).parameters.values()
    }


def split_names(items: list[str] | None) -> list[str]:
    """The names in a repeatable option whose values may themselves be comma-separated lists."""
    return [name.strip() for item in items or () for name in item.split(",") if name.strip()]
