"""A cell: quantize on a synthesis' images, evaluate, and write the record."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from harness.inputs.image_sets import open_images
from harness.inputs.seeds import generator
from harness.plan.jobs import CellJob, RunSettings
from harness.plan.mixed_bits import recorded_bits
from harness.record.cache import Cache, Entry, checksum
from harness.record.records import pack_bits, write_record
from harness.trial.cell_record import record_base
from harness.trial.evaluate import logits_of, metrics
from harness.trial.finite import require_finite
from harness.trial.meter import metered
from harness.trial.reference import StageReport, device_of, model_of, reference_logits
from methods.contracts import QuantizationContext
from methods.quant.operations import costs, describe
from methods.registry import BACKENDS


def run_cell(job: CellJob, settings: RunSettings, report: StageReport) -> None:
    """Quantize on the synthesis' images, evaluate, and write the record."""
    device, entry = device_of(settings), job.subject.entry
    synthesis = _require(Cache.of(settings.results, "synthesis").load(job.synthesis), job)
    model = model_of(job.subject, settings)
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
    require_finite(logits, lambda: quantized, job.data, entry)
    reference = reference_logits(job.subject, job.data, job.reference, settings, partial(report, "fp32"))
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
