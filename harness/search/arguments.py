"""Reads the command line of a search into a checked `SearchRun`, before anything is written."""

from __future__ import annotations

import argparse

from harness.cli.arguments import plugins, read_request, run_settings
from harness.inputs import plugins as catalog
from harness.inputs.image_sets import SEARCH_LEAVES, open_images
from harness.inputs.zoo import ModelEntry, select_models
from harness.plan.jobs import Request
from harness.plan.settings import changed_settings
from harness.record.records import load_records
from harness.report.metrics import find_metric
from harness.search.images import rungs, search_source, shared_images
from harness.search.measure import SearchRun, plan_of
from harness.search.proposals import check_search
from harness.search.samples import find_samples
from harness.search.search import Search
from harness.search.space_file import read_space, start_point
from methods.errors import UsageError
from methods.registry import BACKENDS, METHODS


def read_search_run(arguments: argparse.Namespace) -> SearchRun:
    """Check all that is asked for; raises UsageError for the first thing that does not work."""
    catalog.load(plugins(arguments))
    metrics = _metrics(arguments)
    entry = _only(arguments)
    source = search_source(arguments, entry, metrics)
    shared = shared_images(arguments, entry, source)
    if shared and not arguments.allow_test_tuning:
        raise UsageError(
            f"The search would look at {shared} of the images that results are reported on; give it others by "
            "--search-data (--allow-test-tuning goes on all the same)."
        )
    data_free = source.where == SEARCH_LEAVES and not arguments.calib_data
    request = read_request(arguments, {entry.task: source}, real=not data_free)
    search = _described(arguments, request, metrics, data_free, shared > 0)
    check_search(arguments.kind, search.space, arguments.samples)
    settings, resources = run_settings(arguments, request)
    known = [sample.settings for sample in find_samples(search, load_records([settings.results]).sound)]
    run = SearchRun(
        search, request, settings, resources, known, arguments.samples, arguments.kind, arguments.search_seed
    )
    plan_of(run, search.start, search.images[-1]["n"])  # what does not work for the first point stops here
    return run


def _metrics(arguments: argparse.Namespace) -> list[str]:
    """Return the metrics' names; raises UsageError for an unknown one, and for two under ASHA."""
    names = list(dict.fromkeys(word.strip() for word in arguments.metric.split(",") if word.strip()))
    for name in names:
        find_metric(name)
    if not 1 <= len(names) <= 2:
        raise UsageError("--metric takes one name or two, such as agreement or top1,seconds.")
    if len(names) == 2 and arguments.scheduler == "asha":
        raise UsageError("--scheduler asha stops samples by one metric; a search of two needs --scheduler none.")
    return names


def _only(arguments: argparse.Namespace) -> ModelEntry:
    """Return the one model; raises UsageError for lists of models, methods, backends or bits."""
    for option in ("models", "methods", "backends", "bits"):
        if "," in getattr(arguments, option):
            raise UsageError("A search takes one model, one method, one backend and one bit-width.")
    entries = select_models([arguments.models.strip()])
    if len(entries) > 1:
        raise UsageError(f"A search takes one model; {arguments.models} names {len(entries)}.")
    return entries[0]


def _described(
    arguments: argparse.Namespace, request: Request, metrics: list[str], data_free: bool, tuned_on_test: bool
) -> Search:
    """Write down what is searched."""
    [subject], [method], [backend], [bits] = request.subjects, request.methods, request.backends, request.bits
    owners, name = (METHODS.get(method), BACKENDS.get(backend)), subject.entry.name
    [source] = request.data.values()
    space = read_space(owners, request.overrides, arguments.space)
    return Search(
        model=name,
        method=method,
        backend=backend,
        bits=str(bits),
        seeds=sorted(request.seeds),
        metrics=metrics,
        space=space,
        base={k: v for owner in owners for k, v in changed_settings(owner, name, request.overrides).items()},
        start=start_point(space, {owner.name: owner.default_config(name) for owner in owners}),
        images=[open_images(part).identity() for part in rungs(source, arguments.scheduler == "asha")],
        weights_sha256=subject.weights.sha256,
        versions=[owner.version for owner in owners],
        data_free=data_free,
        tuned_on_test=tuned_on_test,
    )
