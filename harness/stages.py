"""What jobs do: FP32 logits, synthesis, quantization and evaluation, with the cache between them.

A reference job leaves FP32 logits in the cache, a synthesis job images, a cell job a record. Whatever a job
needs from the cache and does not find sound is made again on the spot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.cell_record import record_base
from harness.contact_sheet import contact_sheet
from harness.evaluate import logits_of, metrics
from harness.inputs.image_sets import DataSource, decode_pixels, open_images
from harness.inputs.seeds import generator
from harness.inputs.weights import image_space, shared_model
from harness.meter import metered
from harness.plan.jobs import CellJob, Job, ReferenceJob, RunSettings, Subject, SynthesisJob
from harness.plan.mixed_bits import recorded_bits
from harness.record.cache import Cache, Entry, checksum
from harness.record.files import write_atomically
from harness.record.records import pack_bits, write_record
from methods.contracts import QuantizationContext, SynthesisContext, SyntheticImages
from methods.errors import UsageError
from methods.quant.costs import costs
from methods.quant.swap import describe
from methods.registry import BACKENDS, METHODS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

StageReport: TypeAlias = Callable[[str, int, int], None]
GATE_POINTS = 15.0
_MOST_VIEWS = {"cpu": 32, "cuda": 128}


def run_stages(job: Job, settings: RunSettings, report: StageReport) -> None:
    """Run a job's stages; raises whatever goes wrong, UsageError when the whole run should stop (the FP32 gate)."""
    _RUNNERS[type(job)](job, settings, report)


def _device(settings: RunSettings) -> torch.device:
    import torch

    return torch.device(settings.device)


def _model(subject: Subject, settings: RunSettings) -> nn.Module:
    return shared_model(subject.entry, subject.weights).to(_device(settings))


def _run_reference(job: ReferenceJob, settings: RunSettings, report: StageReport) -> None:
    """Compute and cache the FP32 logits; raises UsageError when they are far worse than they should be."""
    logits = _reference(job.subject, job.data, job.key, settings, partial(report, "fp32"))
    labels, expected = open_images(job.data).labels, job.subject.entry.expected_top1
    if not settings.gate or labels is None or expected is None or job.subject.weights.path is None:
        return
    top1 = metrics(logits, logits, labels)[0]["top1"]
    if top1 < expected - GATE_POINTS:
        raise UsageError(
            f"{job.subject.entry.name} reaches {top1:.1f} % in FP32 on {open_images(job.data).name}, far below the "
            f"{expected:.1f} % expected: wrong weights, wrong labels or a wrong transform "
            "(--no-fp32-gate goes on all the same)."
        )


def _reference(
    subject: Subject, data: DataSource, key: str, settings: RunSettings, report: Callable[[int, int], None]
) -> Tensor:
    """Return the FP32 logits, from the cache or computed and cached."""
    cache = Cache.of(settings.results, "reference")
    entry = cache.load(key)
    if entry is None:
        report(0, 1)
        logits = logits_of(_model(subject, settings), data, subject.entry, _device(settings), report)
        cache.store(key, {"logits": logits}, {})
        return logits
    return entry.tensors["logits"]


def _run_synthesis(job: SynthesisJob, settings: RunSettings, report: StageReport) -> None:
    """Make the images of a method and cache them with what they took."""
    cache = Cache.of(settings.results, "synthesis")
    if cache.load(job.key) is not None:
        return
    report("synthesize", 0, 1)
    with metered(_device(settings)) as meter:
        images = _synthesized(job, settings, partial(report, "synthesize"))
    tensors = {"images": images.images, **images.extras}
    if images.targets is not None:
        tensors["targets"] = images.targets
    cache.store(job.key, tensors, {"losses": images.losses, "stage": meter.stage(cached=False), "run": settings.run})
    write_atomically(cache.path(job.key).with_suffix(".png"), contact_sheet(job.subject.entry, tensors))


def _synthesized(job: SynthesisJob, settings: RunSettings, report: Callable[[int, int], None]) -> SyntheticImages:
    """Call the method; when memory runs out, again with smaller micro-batches."""
    from accelerate.utils import find_executable_batch_size

    entry, device = job.subject.entry, _device(settings)
    model = _model(job.subject, settings)

    def attempt(micro_batch: int) -> SyntheticImages:
        context = SynthesisContext(
            space=image_space(entry),
            classes=entry.classes,
            generator=generator(job.seed, "synthesis"),
            device=device,
            report=report,
            real_images=partial(_real_images, job) if job.calibration else None,
            micro_batch=micro_batch,
        )
        return METHODS.get(job.method).synthesize(model, job.config, context)

    images: SyntheticImages = find_executable_batch_size(attempt, starting_batch_size=_MOST_VIEWS[device.type])()
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


def _run_cell(job: CellJob, settings: RunSettings, report: StageReport) -> None:
    """Quantize on the synthesis' images, evaluate, and write the record."""
    device, entry = _device(settings), job.subject.entry
    synthesis = _require(Cache.of(settings.results, "synthesis").load(job.synthesis), job)
    model = _model(job.subject, settings)
    images = synthesis.tensors["images"]
    report("quantize", 0, 1)
    with metered(device) as quantizing:
        context = QuantizationContext(generator(job.cell.seed, "quantization"), partial(report, "quantize"))
        quantized = BACKENDS.get(job.cell.backend).quantize(
            model, images.to(device), job.bits, job.backend_config, context
        )
    report("evaluate", 0, 1)
    with metered(device) as evaluating:
        logits = logits_of(quantized, job.data, entry, device, partial(report, "evaluate"))
    reference = _reference(job.subject, job.data, job.reference, settings, partial(report, "fp32"))
    found, correct = metrics(logits, reference, open_images(job.data).labels)
    record = record_base(job, settings, "ok")
    record["weights"]["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    record |= {
        "metrics": found,
        "stages": {
            "synthesize": {**synthesis.about["stage"], "cached": synthesis.about.get("run") != settings.run},
            "quantize": quantizing.stage(cached=False),
            "evaluate": evaluating.stage(cached=False),
        },
        "quantized_ops": describe(quantized),
        "costs": asdict(costs(model, quantized, images[:1].to(device))),
        "images_sha256": checksum({"images": images}),
        "logits_sha256": checksum({"logits": logits}),
        "correct_bits": None if correct is None else pack_bits(correct),
    }
    if job.bits.layers:
        record["layer_bits"] = recorded_bits(job.bits, model)
    write_record(settings.results, record)


def _require(synthesis: Entry | None, job: CellJob) -> Entry:
    """Return the synthesis; raises RuntimeError when it vanished or was damaged since it was made."""
    if synthesis is None:
        raise RuntimeError(f"The synthesis {job.synthesis[:12]} was damaged after it was made; run again.")
    return synthesis


_RUNNERS: dict[type, Callable[[Any, RunSettings, StageReport], None]] = {
    ReferenceJob: _run_reference,
    SynthesisJob: _run_synthesis,
    CellJob: _run_cell,
}
