"""Read a command line into a checked request: names, settings, weights and data, before anything is written."""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from uuid import uuid4

from harness.execute.resources import Resources, threads_for
from harness.inputs import plugins as catalog
from harness.inputs.image_sets import DEAD_LEAVES, DIGITS, DIGITS_TRAIN, DataSource, checked
from harness.inputs.weights import find_weights, load_model
from harness.inputs.zoo import ModelEntry, select_models
from harness.plan.jobs import Request, RunSettings, Subject
from harness.plan.mixed_bits import check_layers, read_bits
from harness.plan.settings import effective_config, read_overrides, with_precision
from harness.record.files import check_writable
from harness.trial.provenance import command_line, git_commit
from methods.errors import UsageError
from methods.registry import BACKENDS, METHODS


def read_request(
    arguments: argparse.Namespace, images: dict[str, DataSource] | None = None, real: bool = True
) -> Request:
    """Check everything the command names; raises UsageError for the first thing that does not work.

    images: what to evaluate on, by task, in place of what --data names; real: whether there are real images to
    calibrate on: without, no real image is opened unless `images` names some.
    """
    catalog.load(plugins(arguments))
    entries = select_models(_words(arguments.models, "--models"))
    methods = _words(arguments.methods, "--methods")
    backends = _words(arguments.backends, "--backends")
    for name in methods:
        METHODS.get(name)
    for name in backends:
        BACKENDS.get(name)
    bits = [read_bits(word) for word in _words(arguments.bits, "--bits")]
    seeds = [_seed(word) for word in _words(arguments.seeds, "--seeds")]
    overrides = with_precision(read_overrides(arguments.config, arguments.set), methods, arguments.precision)
    _refuse_unused(arguments.set, methods + backends)
    for entry in entries:
        for owner in [METHODS.get(name) for name in methods] + [BACKENDS.get(name) for name in backends]:
            effective_config(owner, entry.name, overrides)
    check_writable(arguments.results)
    data = _checked(images or _data(arguments, entries), entries, arguments.skip_bad_images)
    calibration = _checked(_calibration(arguments) if real else {}, entries, arguments.skip_bad_images)
    subjects = [_subject(entry, arguments.weights) for entry in entries]
    for subject, widths in product(subjects, bits):
        check_layers(widths, subject.entry.name, load_model(subject.entry, subject.weights))
    return Request(subjects, methods, backends, bits, seeds, overrides, data, calibration)


def _words(text: str, option: str) -> list[str]:
    """Split a comma-separated list, without repeats."""
    words = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise UsageError(f"{option} names nothing.")
    return words


def _seed(word: str) -> int:
    if not (word.isascii() and word.isdecimal()):
        raise UsageError(f"The seed {word!r} is not a whole number of 0 or more.")
    return int(word)


def _refuse_unused(assignments: list[str], names: list[str]) -> None:
    """Refuse settings of methods and backends that take no part: they would do nothing."""
    for assignment in assignments:
        name = assignment.partition(".")[0].strip()
        if name not in names:
            raise UsageError(
                f"--set {assignment} has no effect: {name!r} is not among the methods and backends of this run."
            )


def _data(arguments: argparse.Namespace, entries: list[ModelEntry]) -> dict[str, DataSource]:
    """Return where each task's evaluation images come from."""
    limit = arguments.limit
    where = arguments.data or os.environ.get("DFQ_DATA")
    if where == DIGITS:
        strangers = [entry.name for entry in entries if entry.task != DIGITS]
        if strangers:
            raise UsageError(f"{strangers[0]} is an ImageNet classifier; --data digits has no labels for it.")
        where = None
    return {
        DIGITS: DataSource(DIGITS, limit),
        "imagenet": DataSource(_absolute(where) if where else DEAD_LEAVES, limit),
    }


def _calibration(arguments: argparse.Namespace) -> dict[str, DataSource]:
    """Return where each task's real calibration images come from."""
    found = {DIGITS: DataSource(DIGITS_TRAIN)}
    if arguments.calib_data:
        found["imagenet"] = DataSource(_absolute(arguments.calib_data))
    return found


def _absolute(path: str) -> str:
    """Return an absolute path: workers may start elsewhere."""
    return str(Path(path).expanduser().absolute())


def plugins(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the absolute paths of the plugin files."""
    return tuple(_absolute(path) for path in arguments.plugin)


def _checked(sources: dict[str, DataSource], entries: list[ModelEntry], skip_bad: bool) -> dict[str, DataSource]:
    """Check the image sets of the tasks that take part; raises UsageError when one cannot be used."""
    tasks = {entry.task for entry in entries}
    return {task: checked(source, skip_bad) for task, source in sources.items() if task in tasks}


def _subject(entry: ModelEntry, source: str | None) -> Subject:
    """Find the weights and load them once, so that a checkpoint that does not fit is refused at once."""
    weights = find_weights(entry, source)
    load_model(entry, weights)
    return Subject(entry, weights)


def run_settings(arguments: argparse.Namespace, request: Request) -> tuple[RunSettings, Resources]:
    """Choose device and threads; raises UsageError when more is asked for than there is."""
    import torch

    cuda = torch.cuda.device_count()
    if arguments.device == "cuda" and not cuda and not arguments.address:
        raise UsageError("--device cuda: this machine has no CUDA device.")
    device = "cuda" if arguments.device == "cuda" or (arguments.device == "auto" and cuda) else "cpu"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpus, gpus = arguments.cpus_per_trial, arguments.gpus_per_trial
    if cpus is not None and not arguments.address and cpus > cores:
        raise UsageError(f"--cpus-per-trial {cpus}: this machine has {cores} CPUs.")
    if gpus is not None and (not (math.isfinite(gpus) and gpus >= 0) or (not arguments.address and gpus > cuda)):
        raise UsageError(f"--gpus-per-trial {gpus:g}: this machine has {cuda} GPUs.")
    if arguments.timeout is not None and not (math.isfinite(arguments.timeout) and arguments.timeout > 0):
        raise UsageError(f"--timeout {arguments.timeout:g} is not a number of seconds above 0.")
    threads = cpus or max(threads_for(subject.entry, cores) for subject in request.subjects)
    settings = RunSettings(
        results=arguments.results.absolute(),
        device=device,
        threads=threads,
        gate=not arguments.no_fp32_gate,
        executor=arguments.executor,
        command=command_line(),
        commit=git_commit(),
        run=uuid4().hex,
        plugins=plugins(arguments),
        timeout=arguments.timeout,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    most = float(device == "cuda") if gpus is None else gpus
    there = Resources(threads, most, arguments.address, cpus is not None, gpus is not None, cores)
    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory / 2**20 if cuda else Resources.gpu_mb
        there = replace(there, cuda=max(1, cuda), gpu_mb=memory)
    return settings, there
