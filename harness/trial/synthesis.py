"""A synthesis: a method's images, cached with what they took, and their contact sheet."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from harness.inputs.image_sets import decode_pixels, open_images
from harness.inputs.seeds import generator
from harness.inputs.weights import image_space
from harness.plan.jobs import RunSettings, SynthesisJob
from harness.record.cache import Cache, sheet_path
from harness.record.files import write_atomically
from harness.trial.contact_sheet import contact_sheet
from harness.trial.meter import metered
from harness.trial.reference import StageReport, device_of, model_of
from methods.contracts import Method, SynthesisContext, SyntheticImages
from methods.errors import UsageError
from methods.registry import METHODS

if TYPE_CHECKING:
    from torch import Tensor, nn


_MOST_VIEWS = {"cpu": 32, "cuda": 128}
_SNAPSHOT_SECONDS = 120.0
"""Between two snapshots: what a kill costs at most, beside a step. One of 32 images of 224 px takes 0.2 to 0.4 s."""


@dataclass
class StoredSnapshots:
    """A synthesis' last state in the cache, `methods.contracts.Snapshots`.

    Other micro-batches round otherwise, so a state is gone on from with those it was reached with alone.
    """

    cache: Cache
    key: str
    micro_batch: int = 0
    spent: float = 0.0
    """Seconds that went into the state, in processes that were killed."""
    last: float = field(default_factory=time.monotonic)
    begun: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Whether the last state is older than two minutes."""
        return time.monotonic() - self.last >= _SNAPSHOT_SECONDS

    def store(self, state: dict[str, Tensor]) -> None:
        """Write a state with the seconds it took."""
        self.last = time.monotonic()
        self.cache.store(self.key, state, {"micro_batch": self.micro_batch, "seconds": self._seconds()})

    def load(self) -> dict[str, Tensor] | None:
        """Return the last state; None where there is none, or one of other micro-batches."""
        entry = self.cache.load(self.key)
        if entry is None or entry.about["micro_batch"] != self.micro_batch:
            return None
        self.spent = entry.about["seconds"]
        return entry.tensors

    def _seconds(self) -> float:
        return self.spent + self.last - self.begun

    def remove(self) -> None:
        """Remove the state, whose synthesis is done."""
        self.cache.path(self.key).unlink(missing_ok=True)


def run_synthesis(job: SynthesisJob, settings: RunSettings, report: StageReport) -> None:
    """Make the images of a method and cache them with what they took."""
    cache = Cache.of(settings.results, "synthesis")
    if cache.load(job.key) is not None:
        return
    report("synthesize", 0, 1)
    snapshots = StoredSnapshots(Cache.of(settings.results, "snapshot"), job.key)
    with metered(device_of(settings)) as meter:
        images = _synthesized(job, settings, partial(report, "synthesize"), snapshots)
    meter.seconds += snapshots.spent
    tensors = {"images": images.images, **images.extras}
    if images.targets is not None:
        tensors["targets"] = images.targets
    settings_used = asdict(job.config)
    of = {"model": job.subject.entry.name, "method": job.method, "seed": job.seed, "settings": settings_used}
    stage = msgspec.structs.asdict(meter.stage())
    cache.store(job.key, tensors, {"of": of, "losses": images.losses, "stage": stage, "run": settings.run})
    title = f"{job.label()}: {', '.join(f'{name}={value}' for name, value in settings_used.items())}"
    sheet = sheet_path(settings.results, job.subject.entry.name, job.method, job.seed, job.key)
    write_atomically(sheet, contact_sheet(job.subject.entry, tensors, title))
    snapshots.remove()


def _synthesized(
    job: SynthesisJob, settings: RunSettings, report: Callable[[int, int], None], snapshots: StoredSnapshots
) -> SyntheticImages:
    context = SynthesisContext(
        space=image_space(job.subject.entry),
        classes=job.subject.entry.classes,
        generator=generator(job.seed, "synthesis"),
        device=device_of(settings),
        report=report,
        real_images=partial(_real_images, job) if job.calibration else None,
    )
    method = METHODS.get(job.method)
    return synthesized(method, job.config, model_of(job.subject, settings), context, snapshots)


def synthesized(
    method: Method,
    config: Any,
    model: nn.Module,
    context: SynthesisContext,
    snapshots: StoredSnapshots | None = None,
) -> SyntheticImages:
    """Call a method on a frozen model; when memory runs out, again with smaller micro-batches.

    A method that can go on from a snapshot is given them.
    """
    from accelerate.utils import find_executable_batch_size

    begin = context.generator.get_state()

    def attempt(micro_batch: int) -> SyntheticImages:
        context.generator.set_state(begin)
        if snapshots is None or not method.resumable:
            return method.synthesize(model, config, replace(context, micro_batch=micro_batch))
        snapshots.micro_batch = micro_batch
        return method.synthesize(model, config, replace(context, micro_batch=micro_batch, snapshots=snapshots))

    most = _MOST_VIEWS[context.device.type]
    images: SyntheticImages = find_executable_batch_size(attempt, starting_batch_size=most)()
    return images


def _real_images(job: SynthesisJob, count: int) -> Tensor:
    """Draw normalized real images [count, C, H, W] without replacement."""
    import torch

    assert job.calibration is not None
    images = open_images(job.calibration)
    available = len(images)
    if count > available:
        raise UsageError(f"{count} real images are asked for, the calibration set has {available}.")
    order = torch.randperm(available, generator=generator(job.seed, "real images"))
    pixels = decode_pixels(images, job.subject.entry, order[:count].tolist())
    return image_space(job.subject.entry).normalize(pixels)
