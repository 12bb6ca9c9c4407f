"""What every record of a cell holds from the start, and the record of one that failed."""

from __future__ import annotations

from dataclasses import asdict

from harness.plan.jobs import CellJob, Job, RunSettings
from harness.record.records import SCHEMA, Record, write_record
from harness.trial.provenance import library_versions, provenance


def record_base(job: CellJob, settings: RunSettings, status: str) -> Record:
    """Return the fields every record of the job has, with empty metrics."""
    return {
        "schema": SCHEMA,
        "key": job.key,
        "status": status,
        "cell": asdict(job.cell),
        "config": {"method": asdict(job.method_config), "backend": asdict(job.backend_config)},
        "metrics": {},
        "stages": {},
        "quantized_ops": [],
        "versions": {
            "method": job.identity.method_version,
            "backend": job.identity.backend_version,
            "libraries": library_versions(),
        },
        "weights": {"tag": job.subject.entry.tag, "sha256": job.identity.weights_sha256},
        "meaningless": job.subject.weights.path is None,
        "simulated": True,
        "provenance": provenance(settings),
        "images_sha256": None,
        "logits_sha256": None,
        "correct_bits": None,
        "error": None,
    }


def fail_job(job: Job, settings: RunSettings, error: str, trace: str = "") -> str:
    """Leave a record of failure for a cell; other jobs leave none, the cells they block do.

    Returns the error to tell of: a full disk takes no record of what fails on it, but the rest of the run may fit.
    """
    if isinstance(job, CellJob):
        record = record_base(job, settings, "failed")
        try:
            write_record(settings.results, {**record, "error": error, "traceback": trace})
        except OSError as second:
            return f"{error} (of which no record could be written: {second.strerror})"
    return error
