"""How each tracker is told of a job: a line, TensorBoard's events, a run of Weights & Biases, a run of MLflow.

Each job becomes a run of the tracker's own, closed at once. To add a tracker, write a function and add its line below.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from methods.text import printable

PROJECT = "spdfq-bench"


@dataclass(frozen=True)
class Told:
    """A job that has ended."""

    name: str
    """Its label, with the settings that tell it apart."""
    kind: str
    """`synthesis` or `cell`."""
    about: dict[str, str]
    """What it was of: model, method, seed, settings; of a cell backend and bits, too."""
    losses: dict[str, list[float]]
    """A value per step of each term of the loss."""
    figures: dict[str, float]
    """Metrics, and what its stages took: `seconds/STAGE`, `peak_mb/STAGE`."""
    picture: Path | None
    """The contact sheet of a synthesis."""
    error: str | None
    """Why it failed."""


Write: TypeAlias = Callable[[Path, str, Told], None]


def _jsonl(folder: Path, run: str, told: Told) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"run": run, **asdict(told), "picture": str(told.picture) if told.picture else None})
    with (folder / "log.jsonl").open("a") as stream:
        stream.write(line + "\n")


def _tensorboard(folder: Path, run: str, told: Told) -> None:
    import numpy as np
    from PIL import Image
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard" / run[:8] / _file_name(told))) as writer:
        writer.add_text("about", json.dumps(told.about | {"error": told.error or ""}))
        for name, values in told.losses.items():
            for step, value in enumerate(values):
                writer.add_scalar(f"loss/{name}", value, step)
        for name, value in told.figures.items():
            writer.add_scalar(name, value)
        if told.picture:
            with Image.open(told.picture) as picture:
                writer.add_image("images", np.asarray(picture.convert("RGB")), dataformats="HWC")


def _wandb(folder: Path, run: str, told: Told) -> None:
    import wandb

    quiet = wandb.Settings(silent=True, console="off")
    folder.mkdir(parents=True, exist_ok=True)
    with wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        group=run,
        job_type=told.kind,
        name=told.name,
        config=told.about,
        dir=folder,
        reinit="create_new",
        settings=quiet,
    ) as open_run:
        for step in range(max(map(len, told.losses.values()), default=0)):
            now = {f"loss/{name}": values[step] for name, values in told.losses.items() if step < len(values)}
            open_run.log(now, step=step)
        open_run.summary.update(told.figures | {"error": told.error or ""})
        if told.picture:
            open_run.log({"images": wandb.Image(str(told.picture))})


def _mlflow(folder: Path, run: str, told: Told) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    folder.mkdir(parents=True, exist_ok=True)
    elsewhere = os.environ.get("MLFLOW_TRACKING_URI")
    client = MlflowClient(elsewhere or f"sqlite:///{folder / 'mlflow.db'}")
    experiment, pictures = client.get_experiment_by_name(PROJECT), None if elsewhere else (folder / "mlflow").as_uri()
    where = experiment.experiment_id if experiment else client.create_experiment(PROJECT, pictures)
    opened = client.create_run(where, run_name=told.name).info
    values = [(name, value, 0) for name, value in told.figures.items()]
    values += [(f"loss/{name}", value, step) for name, row in told.losses.items() for step, value in enumerate(row)]
    metrics = [Metric(name, value, opened.start_time, step) for name, value, step in values]
    params = [Param(name, value) for name, value in told.about.items()]
    tags = [RunTag("run", run), RunTag("kind", told.kind), RunTag("error", told.error or "")]
    client.log_batch(opened.run_id, metrics[:1000], params[:100], tags)
    for start in range(1000, len(metrics), 1000):  # a batch of MLflow holds no more
        client.log_batch(opened.run_id, metrics[start : start + 1000])
    if told.picture:
        client.log_artifact(opened.run_id, str(told.picture))
    client.set_terminated(opened.run_id, "FAILED" if told.error else "FINISHED")


def _file_name(told: Told) -> str:
    return printable(told.name).replace("/", "_")[:150]


WRITERS: dict[str, tuple[str, Write]] = {
    "jsonl": ("", _jsonl),
    "tensorboard": ("tensorboardX", _tensorboard),
    "wandb": ("wandb", _wandb),
    "mlflow": ("mlflow", _mlflow),
}
