"""The options commands share: what argparse is told of them, and the typed objects that go on from there."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from harness import __version__
from harness.record.files import user_path
from methods.errors import UsageError
from methods.text import printable, shortened, words

if TYPE_CHECKING:
    from harness.record.files import Table

T = TypeVar("T")


class Default(str):
    """The text of an option that was not given, so that a default can be told from the same words typed."""


@dataclass(frozen=True)
class Matrix:
    """What to measure, as typed: every combination of the lists is a cell."""

    models: list[str]
    """Short names, globs over them, full timm names."""
    methods: list[str]
    """Names of synthesis methods."""
    backends: list[str]
    """Names of quantization backends."""
    bits: list[str]
    """Words such as w4a4, or TOML files of bits per layer."""
    seeds: list[str]
    """Whole numbers of 0 or more."""
    chosen: bool = True
    """Whether the methods were named; default ones that lack what they need are left out, named ones refused."""

    @classmethod
    def of(cls, texts: Mapping[str, str]) -> Matrix:
        """Read the comma-separated lists; raises UsageError for one that names nothing."""
        lists = {name: words(texts[name]) for name in ("models", "methods", "backends", "bits", "seeds")}
        for name, found in lists.items():
            if not found:
                raise UsageError(f"--{name} names nothing.")
        return cls(**lists, chosen=not isinstance(texts["methods"], Default))


@dataclass(frozen=True)
class Single:
    """One cell, or one per seed, as typed: what an ablation or a search is of."""

    model: str
    """A short name or a full timm name."""
    method: str
    """Name of a synthesis method."""
    backend: str
    """Name of a quantization backend."""
    bits: str
    """A word such as w4a4, or a TOML file of bits per layer."""
    seeds: str
    """Whole numbers of 0 or more, parted by commas."""

    def matrix(self, what: str) -> Matrix:
        """Return the lists of one element each; raises UsageError, naming the command, where there are more."""
        for text in (self.model, self.method, self.backend, self.bits):
            if len(words(text)) != 1 or set("*?[") & set(text):
                raise UsageError(f"{what} takes one model, one method, one backend and one bit-width, not {text!r}.")
        return Matrix([self.model], [self.method], [self.backend], [self.bits], words(self.seeds))


@dataclass(frozen=True)
class Inputs:
    """With which settings, images and weights to measure."""

    set: list[str]
    """Assignments `name.key=value`, over those of tables."""
    plugin: list[str]
    """Python files that register methods or backends."""
    precision: str | None
    """Of the forward passes of synthesis, fp32 or bf16; None leaves each method's own."""
    data: str | None
    """`digits`, or a folder, tar or parquet file of images; None: DFQ_DATA, else procedural images."""
    calib_data: str | None
    """Folder of real images for methods that use them."""
    weights: str | None
    """Folder of checkpoints, or `random`; None: DFQ_WEIGHTS, else timm's hub."""
    limit: int | None
    """Size of a fixed class-balanced subset to evaluate on; None: all images."""
    skip_bad_images: bool
    """Whether images that cannot be read are left out instead of stopping the run."""
    timeout: float | None = None
    """Seconds after which the import of a plugin is stopped; None: never."""
    labels: str | None = None
    """What is right for the images of `data`: a label file, or `ReaL`; None: as they lie there."""
    tables: dict[str, Table] = field(default_factory=dict)
    """Settings from `--preset` and `--config`: a table per method or backend."""


@dataclass(frozen=True)
class Running:
    """Where and how to run."""

    results: Path
    """Folder of records and cache."""
    executor: str
    """`ray` or `local`."""
    device: str
    """`auto`, `cpu` or `cuda`."""
    cpus_per_trial: int | None
    """CPU threads of a trial; None: by the model's size."""
    gpus_per_trial: float | None
    """GPUs of a trial; None: by the model's size and the stage."""
    timeout: float | None
    """Seconds after which a stage of a job is stopped; None: never."""
    address: str | None
    """Of the Ray cluster to join; None starts Ray here."""
    no_fp32_gate: bool
    """Whether to go on when the FP32 accuracy is far below what it should be."""
    quiet: bool = False
    """Whether to print tables and failures alone."""
    verbose: bool = False
    """Whether to print a line for every job on a terminal, too."""
    log: str = ""
    """Trackers that are told what jobs gave, parted by commas."""


def taken(kind: type[T], arguments: argparse.Namespace) -> T:
    """Return a dataclass filled with the arguments of its fields' names; fields argparse knows nothing of keep their
    defaults."""
    given = vars(arguments)
    names = [part.name for part in fields(kind)]  # type: ignore[arg-type]  # every kind is a dataclass
    return kind(**{name: given[name] for name in names if name in given})


def command_parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return the parser every command starts from; examples end its --help."""
    parser = argparse.ArgumentParser(
        prog=f"python -m harness.{name}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"spdfq-bench {__version__}")
    return parser


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for settings, images and weights."""
    group = parser.add_argument_group("settings, images and weights")
    group.add_argument(
        "--set", action="append", default=[], metavar="NAME.KEY=VALUE", help="a setting of a method or backend"
    )
    group.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="Python file that registers methods or backends"
    )
    group.add_argument("--config", type=path, help="TOML file of options and settings; what is typed goes before it")
    group.add_argument(
        "--precision", choices=("fp32", "bf16"), help="of the forward passes of synthesis (default: fp32)"
    )
    group.add_argument(
        "--data",
        type=named,
        help="'digits', or images: a folder, a tar or parquet file (default: DFQ_DATA; none: agreement only)",
    )
    group.add_argument(
        "--labels",
        type=named,
        help="label file of --data, or 'ReaL' for ImageNet's (default: found beside the images)",
    )
    group.add_argument("--calib-data", type=named, help="folder of real images for methods that use them")
    group.add_argument(
        "--weights",
        type=named,
        metavar="DIR|FILE|random",
        help="a folder of <arch.tag>.safetensors or .pth, one's own checkpoint, or none (default: DFQ_WEIGHTS, then "
        "timm's hub)",
    )
    group.add_argument(
        "--limit", type=positive, help="evaluate on a fixed class-balanced subset of this size (default: all)"
    )
    group.add_argument("--skip-bad-images", action="store_true", help="leave out images that cannot be read")
    group.add_argument(
        "--no-fp32-gate", action="store_true", help="go on when FP32 accuracy is far below what it should be"
    )


def add_run_options(parser: argparse.ArgumentParser, jobs: bool = True) -> None:
    """Add the options for where and how to run.

    jobs: whether the command runs jobs by a plan, of each of which there is more to say.
    """
    group = parser.add_argument_group("how to run")
    group.add_argument(
        "--results", type=path, default=Path("results"), help="folder for records and cache (default: %(default)s)"
    )
    group.add_argument(
        "--executor", choices=("ray", "local"), default="ray", help="local: no Ray (default: %(default)s)"
    )
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s)")
    group.add_argument(
        "--cpus-per-trial",
        type=positive,
        help="CPU threads of a trial (default: 1 for small models, else all, 8 at most)",
    )
    group.add_argument(
        "--gpus-per-trial",
        type=float,
        help="GPUs of a trial, may be a fraction (default: on CUDA by the model's size and the stage, else 0)",
    )
    group.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="stop a stage of a job that takes longer, whose cells fail alone, or the import of a plugin",
    )
    group.add_argument("--address", type=named, help="Ray cluster to join (default: start Ray here)")
    loudness = group.add_mutually_exclusive_group()
    loudness.add_argument("--quiet", action="store_true", help="print tables and failures alone")
    if jobs:
        loudness.add_argument("--verbose", action="store_true", help="a line for every job on a terminal, too")
        group.add_argument(
            "--log",
            default="",
            metavar="TRACKERS",
            help="tell jsonl, tensorboard, wandb, mlflow of losses, images and figures (default: none of them)",
        )
    group.add_argument("--plan", action="store_true", help="print what would run, and run nothing")


def named(text: str) -> str:
    """Read a word that must not be empty: a variable of the shell that is not set would choose the default, unseen."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it names nothing")
    return text


def path(text: str) -> Path:
    """Read a path, `~` expanded."""
    try:
        return user_path(named(text))
    except UsageError as error:
        raise argparse.ArgumentTypeError(printable(str(error))) from error


def seconds(text: str) -> float:
    """Read a time above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{shortened(text)!r} is not a number of seconds above 0")
    return number


def listed(text: str) -> list[str]:
    """Read a comma-separated list that names something."""
    found = words(text)
    if not found:
        raise argparse.ArgumentTypeError("it names nothing")
    return found


def positive(text: str) -> int:
    """Read a whole number of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number
