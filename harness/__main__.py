"""One command for all, installed as `spdfq-bench`: `spdfq-bench bench --plan` is `python -m harness.bench --plan`."""

from __future__ import annotations

import os
import runpy
import sys
from importlib.util import find_spec

from harness import __version__

COMMANDS = {
    "bench": "measure methods x backends x models x bits x seeds",
    "status": "tell what runs, how far it is and how long still",
    "leaderboard": "turn records into tables and a page",
    "compare": "what changed between two sets of results",
    "ablation": "run the ablation a method's paper reports",
    "search": "search settings of a method and its backend",
    "sensitivity": "quantize every layer alone and tell what it costs",
    "images": "make a method's images and write them as files",
    "export": "write a quantized model as ONNX, safetensors or a torch program, run it and measure it",
    "perf": "time synthesis and evaluation against the bare model",
    "fill": "fill the tables of Markdown files from records",
    "check": "check every record against schema, key and bits",
    "train_digits": "train the embedded models again",
}


def main() -> None:
    """Hand the rest of the line to the command it names; exits with that command's code, 2 for an unknown one."""
    if "_ARGCOMPLETE" in os.environ:
        from harness.cli.completion import complete

        complete({name: module(name) for name in COMMANDS})
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h"):
        print(_help())
    elif name == "--version":
        print(f"spdfq-bench {__version__}")
    elif name.replace("-", "_") in COMMANDS:
        del sys.argv[1]
        runpy.run_module(f"harness.{name.replace('-', '_')}", run_name="__main__", alter_sys=True)
    else:
        from methods.errors import unknown_name

        print(unknown_name("command", name, COMMANDS), file=sys.stderr)
        sys.exit(2)


def module(command: str) -> str:
    """Return the module of a command."""
    spec = find_spec(f"harness.{command}")
    inside = spec is not None and spec.submodule_search_locations
    return f"harness.{command}.__main__" if inside else f"harness.{command}"


def _help() -> str:
    lines = [f"  {name:<13} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["usage: spdfq-bench COMMAND [options]", "", *lines, "", "spdfq-bench COMMAND --help tells of its options."]
    )


if __name__ == "__main__":
    main()
