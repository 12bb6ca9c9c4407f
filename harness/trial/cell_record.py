"""What every record of a cell holds from the start, and the record of one that failed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Literal, TypedDict

from harness.inputs.model_info import told
from harness.plan.jobs import CellJob, Job, RunSettings
from harness.record.cells import Cell
from harness.record.parse import UnsoundRecord
from harness.record.record import SCHEMA, Config, Failed, Provenance, UsedWeights, Versions
from harness.record.records import write_record
from harness.trial.provenance import library_versions, provenance

if TYPE_CHECKING:
    from torch import nn


class Common(TypedDict):
    """The fields of `Record`."""

    schema: Literal[1]
    key: str
    cell: Cell
    config: Config
    versions: Versions
    weights: UsedWeights
    meaningless: bool
    simulated: bool
    provenance: Provenance


def common(job: CellJob, settings: RunSettings, model: nn.Module | None = None, simulated: bool = True) -> Common:
    """Return the fields every record of the job has; model: the FP32 one, where it was made; simulated: whether
    quantized values are computed in floating point."""
    identity = job.identity
    parameters = None if model is None else sum(parameter.numel() for parameter in model.parameters())
    adapted = () if model is None else told(model).get("adapted", ())
    return {
        "schema": SCHEMA,
        "key": job.key,
        "cell": job.cell,
        "config": Config(asdict(job.method_config), asdict(job.backend_config)),
        "versions": Versions(identity.method_version, identity.backend_version, library_versions()),
        "weights": UsedWeights(job.subject.entry.tag, identity.weights_sha256, parameters, adapted),
        "meaningless": job.subject.weights.path is None,
        "simulated": simulated,
        "provenance": provenance(settings),
    }


def fail_job(job: Job, settings: RunSettings, error: str, trace: str = "") -> str:
    """Leave a record of failure for a cell; other jobs leave none, the cells they block do.

    Returns the error to tell of: a full disk takes no record of what fails on it, but the rest of the run may fit.
    """
    if isinstance(job, CellJob):
        try:
            write_record(settings.results, Failed(**common(job, settings), error=error, traceback=trace))
        except OSError as second:
            return f"{error} (of which no record could be written: {second.strerror or second})"
        except UnsoundRecord as second:
            return f"{error} (of which no record could be written: it {second})"
    return error
