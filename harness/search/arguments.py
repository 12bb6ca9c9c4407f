"""Reads the command line of a search into a checked `SearchRun`, before anything is written.

The images a search looks at are not those its results are reported on. Without labels asked for they are procedural
(dead leaves, other ones than reports use), so that a tuned method is still data-free; a search by accuracy takes the
digits' training images, or a folder given. Sharing a single image with the set of `--data` is refused.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

from harness.cli.arguments import absolute, read_request, refuse_unused, run_settings
from harness.cli.options import Inputs, Running, Single
from harness.inputs import plugins as catalog
from harness.inputs.image_sets import (
    DIGITS,
    DIGITS_TRAIN,
    SEARCH_LEAVES,
    DataSource,
    folder_of,
    open_images,
)
from harness.inputs.images.sets import ArrayImages, StoredImages
from harness.inputs.named_models import select_models
from harness.inputs.zoo import FEATURES, ModelEntry
from harness.plan.jobs import Request
from harness.plan.settings import changed_settings, defaults
from harness.record.records import load_records
from harness.report.layout import BACKBONE, CLASSIFIER, find_metric
from harness.search.measure import SearchRun, plan_of
from harness.search.proposals import check_search
from harness.search.search import Search, find_samples
from harness.search.space import read_space, start_point
from methods.errors import UsageError
from methods.registry import BACKENDS, METHODS
from methods.text import words


@dataclass(frozen=True)
class SearchOptions:
    """How to search, as typed."""

    space: Path | None
    """TOML file of ranges; None leaves those the method and the backend declare."""
    samples: int
    """How many settings to try in all."""
    search: str
    """`optuna`, `random` or `grid`."""
    search_seed: int
    """Of the searcher itself."""
    scheduler: str
    """`asha` or `none`."""
    metric: str | None
    """Names of one metric or two, parted by a comma; None: agreement with FP32, a backbone's the cosine."""
    search_data: str | None
    """Images the search looks at; None: procedural ones, or the digits' training images where labels are needed."""
    allow_test_tuning: bool
    """Whether to search even on images that results are reported on."""


def read_search_run(single: Single, options: SearchOptions, inputs: Inputs, running: Running) -> SearchRun:
    """Check all that is asked for; raises UsageError for the first thing that does not work."""
    catalog.load(absolute(inputs.plugin), inputs.timeout)
    metrics = _metrics(options)
    matrix = single.matrix("A search")
    [entry] = select_models(matrix.models, inputs.weights)
    metrics = metrics or ["cosine" if entry.task == FEATURES else "agreement"]
    source = search_source(options.search_data, inputs.limit, entry, metrics)
    shared = shared_images(inputs.data, entry, source)
    if shared and not options.allow_test_tuning:
        raise UsageError(
            f"The search would look at {shared} of the images that results are reported on; give it others by "
            "--search-data (--allow-test-tuning goes on all the same)."
        )
    data_free = source.where == SEARCH_LEAVES and not inputs.calib_data
    request = read_request(matrix, inputs, {entry.task: source}, real=not data_free)
    refuse_unused(inputs.set, [single.method, single.backend])
    search = _described(options, request, metrics, data_free, shared > 0)
    check_search(options.search, search.space, options.samples)
    settings, resources = run_settings(running, inputs.plugin, [request])
    known = [sample.settings for sample in find_samples(search, load_records([settings.results]).sound)]
    run = SearchRun(search, request, settings, resources, known, options.samples, options.search, options.search_seed)
    plan_of(run, search.start, search.images[-1]["n"])  # what does not work for the first point stops here
    return run


def _metrics(options: SearchOptions) -> list[str]:
    """Return the metrics' names, none where none is asked for; raises UsageError for an unknown one, and for two under
    ASHA."""
    if options.metric is None:
        return []
    names = words(options.metric)
    for name in names:
        find_metric(name)
    if not 1 <= len(names) <= 2:
        raise UsageError("--metric takes one name or two, such as agreement or top1,seconds.")
    if len(names) == 2 and options.scheduler == "asha":
        raise UsageError("--scheduler asha stops samples by one metric; a search of two needs --scheduler none.")
    return names


def _described(
    options: SearchOptions, request: Request, metrics: list[str], data_free: bool, tuned_on_test: bool
) -> Search:
    """Write down what is searched."""
    [subject], [method], [backend], [bits] = request.subjects, request.methods, request.backends, request.bits
    owners, name = (METHODS.get(method), BACKENDS.get(backend)), subject.entry.name
    [source] = request.data.values()
    space = read_space(owners, request.overrides, options.space)
    return Search(
        model=name,
        method=method,
        backend=backend,
        bits=str(bits),
        seeds=sorted(request.seeds),
        metrics=metrics,
        space=space,
        base={k: v for owner in owners for k, v in changed_settings(owner, name, request.overrides).items()},
        start=start_point(space, {owner.name: defaults(owner, name) for owner in owners}),
        images=[open_images(part).identity() for part in rungs(source, options.scheduler == "asha")],
        weights_sha256=subject.weights.sha256,
        versions=[owner.version for owner in owners],
        data_free=data_free,
        tuned_on_test=tuned_on_test,
    )


PROCEDURAL = "procedural"
_NAMED = {PROCEDURAL: SEARCH_LEAVES, DIGITS: DIGITS, DIGITS_TRAIN: DIGITS_TRAIN}
_RUNGS = 4


def search_source(where: str | None, limit: int | None, entry: ModelEntry, metrics: list[str]) -> DataSource:
    """Return where a search's images come from, by what --search-data says.

    Raises UsageError when they have no labels and a metric needs them, and for a metric that the model has not.
    """
    kind, own = (BACKBONE, "cosine") if entry.task == FEATURES else (CLASSIFIER, "agreement or kl")
    for name in metrics:
        if find_metric(name).of not in ("", kind):
            raise UsageError(f"{entry.name} is a {kind}, which has no {name}; search by {own}.")
    labelled = [name for name in metrics if find_metric(name).labels]
    if where is None:
        if labelled and entry.task != DIGITS:
            raise UsageError(f"A search by {labelled[0]} needs labelled images of its own: give --search-data DIR.")
        where = DIGITS_TRAIN if labelled else PROCEDURAL
    if where != PROCEDURAL and (where in _NAMED) != (entry.task == DIGITS):
        raise UsageError(f"--search-data {where} does not fit {entry.name}, which classifies {entry.task} images.")
    if where == PROCEDURAL and labelled:
        raise UsageError(f"Procedural images have no labels, which {labelled[0]} needs; search by {own}.")
    if where in _NAMED:
        return DataSource(_NAMED[where], limit)
    return folder_of(entry, str(Path(where).expanduser().absolute()), limit)


def shared_images(reported: str | None, entry: ModelEntry, source: DataSource) -> int:
    """Return how many images of a search are among those that results are reported on, by what --data says;
    0 for procedural ones."""
    where = reported or os.environ.get("DFQ_DATA")
    if source.where == SEARCH_LEAVES or (entry.task != DIGITS and not where):
        return 0
    if entry.task == DIGITS:
        return len(_marks(source) & _marks(DataSource(DIGITS)))
    folder = str(Path(str(where)).expanduser().absolute())
    return len(_marks(source) & _marks(folder_of(entry, folder)))


def _marks(source: DataSource) -> set[str]:
    """Return what tells each image of a set from others: its pixels, or its file's name and size."""
    images = open_images(source)
    if isinstance(images, ArrayImages):
        return {hashlib.sha256(image.tobytes()).hexdigest() for image in images.images}
    assert isinstance(images, StoredImages)
    return {f"{Path(path).name} {images.store.size(path)}" for path, _ in images.files}


def rungs(source: DataSource, asha: bool) -> list[DataSource]:
    """Return the growing parts of a set that ASHA measures on, an eighth to all; without ASHA the whole set."""
    count = len(open_images(source))
    smallest = math.ceil(count / 2 ** (_RUNGS - 1))
    sizes = [min(smallest * 2**power, count) for power in range(_RUNGS)] if asha else [count]
    return [replace(source, limit=size) for size in dict.fromkeys(sizes)]
