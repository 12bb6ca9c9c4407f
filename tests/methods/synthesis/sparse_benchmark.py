"""How much faster a step of sparse inversion gets: `python tests/methods/sparse_benchmark.py [MODEL [IMAGES]]`.

Runs `dmi` and `smi` for a few steps on one thread and prints the median processor seconds of a dense step beside
those of a step behind the last pruning point (deit_t and 8 images where nothing is given). Weights come from
DFQ_WEIGHTS, else they are random: they take the same time.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import torch

from harness.inputs import plugins as catalog
from harness.inputs.named_models import select_models
from harness.inputs.seeds import generator
from harness.inputs.weights import find_weights, image_space, load_model
from methods.contracts import SynthesisContext
from methods.registry import METHODS

_STEPS = 16  # those behind the last point of `smi`: a quarter


def timed(method: str, name: str, images: int) -> float:
    """Return the median seconds of a step over the last quarter of a short run."""
    [entry] = select_models([name])
    model = load_model(entry, find_weights(entry, os.environ.get("DFQ_WEIGHTS", "random")))
    maker, times = METHODS.get(method), [time.process_time()]
    config = dataclasses.replace(maker.default_config(name), images=images, iterations=_STEPS)
    maker.synthesize(
        model,
        config,
        SynthesisContext(
            image_space(entry),
            entry.classes,
            generator(0, "perf"),
            report=lambda done, total: times.append(time.process_time()),
        ),
    )
    return statistics.median(end - start for start, end in list(pairwise(times))[-_STEPS // 4 :])


def main(words: list[str]) -> None:
    """Print one line."""
    catalog.load()
    torch.set_num_threads(1)
    name, images = (words + ["deit_t", "8"][len(words) :])[:2]
    dense, sparse = (timed(method, name, int(images)) for method in ("dmi", "smi"))
    print(
        f"{name}, {images} images: dense step {dense:.3f} s, last sparse step {sparse:.3f} s ({sparse / dense:.2f}x)"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
