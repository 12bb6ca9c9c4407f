"""A cell: quantize on a synthesis' images, evaluate, and write the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from harness.inputs.image_sets import open_images
from harness.inputs.images.labels import Label
from harness.inputs.seeds import generator
from harness.inputs.weights import image_space
from harness.inputs.zoo import ModelEntry
from harness.plan.jobs import CellJob, RunSettings
from harness.plan.mixed_bits import recorded_bits
from harness.record import correctness
from harness.record.cache import Cache, Entry, checksum
from harness.record.record import Costs, Finished, Metrics, Operation, Stage, Stages
from harness.record.records import write_record
from harness.trial.cell_record import common
from harness.trial.evaluate import feature_metrics, logits_of, metrics
from harness.trial.meter import metered
from harness.trial.reference import StageReport, device_of, model_of, reference_logits, require_finite
from methods.contracts import QuantizationContext, Report
from methods.quant.operations import costs, describe
from methods.quant.runtimes import OnnxModel
from methods.registry import BACKENDS

if TYPE_CHECKING:
    from torch import Tensor, nn


def run_cell(job: CellJob, settings: RunSettings, report: StageReport) -> None:
    """Quantize on the synthesis' images, evaluate, and write the record."""
    device, entry = device_of(settings), job.subject.entry
    synthesis = synthesis_of(job, settings)
    model = model_of(job.subject, settings)
    images = synthesis.tensors["images"]
    report("quantize", 0, 1)
    with metered(device) as quantizing:
        quantized = quantized_model(job, settings, images, partial(report, "quantize"))
    report("evaluate", 0, 1)
    with metered(device) as evaluating:
        logits = logits_of(quantized, job.data, entry, device, partial(report, "evaluate"))
    require_finite(logits, lambda: quantized, job.data, entry)
    reference = reference_logits(job.subject, job.data, job.reference, settings, partial(report, "fp32"))
    shown = open_images(job.data)
    found, correct = _compared(entry, logits, reference, shown.labels)
    made, cached = synthesis.about["stage"], synthesis.about.get("run") != settings.run
    foreign = isinstance(quantized, OnnxModel)
    record = Finished(
        **common(job, settings, model, simulated=not foreign),
        metrics=Metrics(**found),
        stages=Stages(
            synthesize=Stage(made["seconds"], made["peak_mb"], cached),
            quantize=quantizing.stage(),
            evaluate=evaluating.stage(),
        ),
        quantized_ops=msgspec.convert(describe(quantized), tuple[Operation, ...]),
        images_sha256=checksum({"images": images}),
        logits_sha256=checksum({"logits": logits}),
        correct_bits=None if correct is None else correctness.pack(correct),
        error=None,
        costs=None if foreign else Costs(**asdict(costs(model, quantized, images[:1].to(device)))),
        layer_bits=recorded_bits(job.cell.bits, model) if job.cell.bits.layers else None,
        left_out=dict(shown.left_out) or None,
    )
    write_record(settings.results, record)


def _compared(
    entry: ModelEntry, outputs: Tensor, reference: Tensor, labels: Sequence[Label] | None
) -> tuple[dict[str, Any], list[bool] | None]:
    """Return the metrics of a record and, of a classifier with labels, per-image correctness."""
    if entry.classes:
        return metrics(outputs, reference, labels)
    return feature_metrics(outputs, reference, labels), None


def quantized_model(job: CellJob, settings: RunSettings, images: Tensor, report: Report) -> nn.Module:
    """Return the cell's model, quantized on the images [n, C, H, W] of its synthesis."""
    context = QuantizationContext(generator(job.cell.seed, "quantization"), image_space(job.subject.entry), report)
    model, calibration = model_of(job.subject, settings), images.to(device_of(settings))
    return BACKENDS.get(job.cell.backend).quantize(model, calibration, job.cell.bits, job.backend_config, context)


def synthesis_of(job: CellJob, settings: RunSettings) -> Entry:
    """Return the cell's synthesis; raises RuntimeError when it vanished or was damaged since it was made."""
    synthesis = Cache.of(settings.results, "synthesis").load(job.synthesis)
    if synthesis is None:
        raise RuntimeError(f"The synthesis {job.synthesis[:12]} was damaged after it was made; run again.")
    return synthesis
