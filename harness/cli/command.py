"""How every command ends: exit codes, and errors as sentences instead of tracebacks."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from harness.cli.ending import ended


def run_command(action: Callable[[], int]) -> int:
    """Run a command's work, libraries kept quiet; returns its exit code, see `harness.cli.ending`."""
    for library in ("timm", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    return ended(action)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for settings, images and weights."""
    group = parser.add_argument_group("settings, images and weights")
    group.add_argument(
        "--set", action="append", default=[], metavar="NAME.KEY=VALUE", help="a setting of a method or backend"
    )
    group.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="Python file that registers methods or backends"
    )
    group.add_argument("--config", type=Path, help="TOML file with such settings, a table per method or backend")
    group.add_argument(
        "--precision", choices=("fp32", "bf16"), help="of the forward passes of synthesis (default: fp32)"
    )
    group.add_argument(
        "--data", help="'digits', or a folder of ImageNet validation images (default: DFQ_DATA; none: agreement only)"
    )
    group.add_argument("--calib-data", help="folder of real images for methods that use them")
    group.add_argument(
        "--weights",
        help="folder of <arch.tag>.safetensors or .pth, or 'random' (default: DFQ_WEIGHTS, then timm's hub)",
    )
    group.add_argument("--limit", type=positive, help="evaluate on a fixed class-balanced subset of this size")
    group.add_argument("--skip-bad-images", action="store_true", help="leave out images that cannot be read")
    group.add_argument(
        "--no-fp32-gate", action="store_true", help="go on when FP32 accuracy is far below what it should be"
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for where and how to run."""
    group = parser.add_argument_group("how to run")
    group.add_argument("--results", type=Path, default=Path("results"), help="folder for records and cache")
    group.add_argument("--executor", choices=("ray", "local"), default="ray")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
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
        type=float,
        metavar="SECONDS",
        help="stop a stage of a job that takes longer; its cells fail alone",
    )
    group.add_argument("--address", help="Ray cluster to join (default: start Ray here)")
    group.add_argument("--plan", action="store_true", help="print what would run, and run nothing")


def positive(text: str) -> int:
    """Read a whole number of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number
