"""The trial: one job and what may go wrong in it, the same under every executor. It knows nothing of Ray."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from harness.inputs import plugins as catalog
from harness.plan.jobs import CellJob, Job, ReferenceJob, RunSettings, SynthesisJob
from harness.trial.cell import run_cell
from harness.trial.cell_record import fail_job
from harness.trial.reference import StageReport, run_reference
from harness.trial.synthesis import run_synthesis
from methods.errors import UsageError

OUT_OF_MEMORY = "Out of memory"


class StageTimeout(Exception):
    """A stage took longer than it may."""

    def __init__(self, stage: str, seconds: float) -> None:
        super().__init__(f"The stage {stage!r} was stopped after {seconds:g} s (--timeout).")


def run_job(job: Job, settings: RunSettings, report: StageReport) -> str | None:
    """Run a job; returns None, or the text of the error that made it fail (a failed cell is also recorded).

    The text begins with OUT_OF_MEMORY when memory ran out even with the smallest batches. `report` hears of every
    stage as it begins. Raises UsageError when the whole run should stop (the FP32 gate).
    """
    import torch

    catalog.load(settings.plugins)
    _freeze_libraries()
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.allow_tf32 = False  # by default convolutions, and so patch embeddings, keep ten bits on GPUs
    try:
        run_stages(job, settings, report)
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:  # whatever a method or backend raises fails its own job: not the run, nor ends it
        return fail_job(job, settings, _described(error), traceback.format_exc())
    finally:
        gc.collect()
        if settings.device == "cuda":
            torch.cuda.empty_cache()
    return None


@lru_cache
def _freeze_libraries() -> None:
    """Take what the libraries hold out of the garbage collector's sight, once per process.

    A collection walks all objects it knows: with torch and timm loaded 0.3 s, twice a job, more than a short cell's
    own work.
    """
    import accelerate  # noqa: F401 - loaded now, to be frozen
    import timm  # noqa: F401

    gc.collect()
    gc.freeze()


def _described(error: BaseException) -> str:
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, StageTimeout):
        return str(error)
    exhausted = isinstance(error, Exception) and (
        should_reduce_batch_size(error) or str(error).startswith("No executable batch size")
    )
    return f"{OUT_OF_MEMORY}: {error}" if exhausted else f"{type(error).__name__}: {error}"


def run_stages(job: Job, settings: RunSettings, report: StageReport) -> None:
    """Run a job's stages; raises whatever goes wrong, UsageError when the whole run should stop (the FP32 gate)."""
    _RUNNERS[type(job)](job, settings, report)


_RUNNERS: dict[type, Callable[[Any, RunSettings, StageReport], None]] = {
    ReferenceJob: run_reference,
    SynthesisJob: run_synthesis,
    CellJob: run_cell,
}
