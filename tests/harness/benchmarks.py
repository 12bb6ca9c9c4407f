"""How fast the harness is: `python tests/harness/benchmarks.py speed FOLDER [MODEL [THREADS [ROUNDS]]]` and others.

`speed`: repeats the JPEGs of a folder of class folders (named by WordNet id), each with a comment of its own, until a
tar file has 900 of them. Prints images per second, and processor time, of `harness.trial.evaluate` beside those of the
loop of timm's `validate.py` (its loader with as many worker processes as there are cores, loss and accuracies) on the
same model (`deit_t`), batch size, threads and images, in turns (3), one more of which goes ahead and does not count.
Weights come from DFQ_WEIGHTS, else they are random: they take the same time.

`memory FOLDER [MODEL [THREADS]]`: prints the peak memory of an evaluation of 5,000 such images beside that of one of
500, each in a process of its own.

`tables`: prints, for 1,000 and 20,000 records (or the counts given), the median of three runs of
`python -m harness.leaderboard` in a process of its own: wall-clock and processor seconds, start to table.
"""

from __future__ import annotations

import io
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from harness_kit import many_records, python
from timm.data import create_dataset, create_loader
from timm.utils import AverageMeter, accuracy
from torch import nn

from harness.inputs import plugins as catalog
from harness.inputs.image_sets import DataSource, open_images
from harness.inputs.images.labels import class_index
from harness.inputs.named_models import select_models
from harness.inputs.weights import find_weights, load_model
from harness.inputs.zoo import ModelEntry
from harness.trial.evaluate import BATCH, logits_of, metrics
from harness.trial.meter import metered

_ROUNDS, _TIMED, _FEW, _MANY = 3, 900, 500, 5000  # 900 are too many to be kept in memory
_CPU = torch.device("cpu")


def pack(folder: Path, tar: Path, count: int) -> Path:
    """Write `count` different JPEG files into a tar file: each round through the folder has another comment."""
    found = sorted(folder.glob("*/*.JPEG"))
    with tarfile.open(tar, "w") as out:
        for number, path in zip(range(count), itertools.cycle(found), strict=False):
            content, comment = path.read_bytes(), f"copy {number:06d}".encode()
            content = content[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + content[2:]
            about = tarfile.TarInfo(f"{path.parent.name}/{number:06d}.JPEG")
            about.size = len(content)
            out.addfile(about, io.BytesIO(content))
    return tar


@lru_cache
def loaded(name: str) -> tuple[ModelEntry, nn.Module]:
    """Return the entry and the model."""
    catalog.load()
    [entry] = select_models([name])
    return entry, load_model(entry, find_weights(entry, os.environ.get("DFQ_WEIGHTS", "random")))


def ours(tar: Path, name: str) -> float:
    """Return top-1 in percent of an evaluation."""
    entry, model = loaded(name)
    logits = logits_of(model, DataSource(str(tar)), entry, _CPU, lambda *_: None)
    top1: float = metrics(logits, logits, open_images(DataSource(str(tar))).labels)[0]["top1"]
    return top1


def timms(tar: Path, name: str) -> float:
    """Return top-1 in percent of the loop of validate.py."""
    entry, model = loaded(name)
    classes = tar.with_name("classes.txt")
    classes.write_text("\n".join(class_index()))
    loader = create_loader(
        create_dataset("", str(tar), class_map=str(classes)),
        input_size=(3, entry.size, entry.size),
        batch_size=BATCH["cpu"],
        interpolation=entry.interpolation,
        mean=entry.mean,
        std=entry.std,
        crop_pct=entry.crop,
        num_workers=os.cpu_count() or 1,
        device=_CPU,
    )
    criterion, losses, top1 = nn.CrossEntropyLoss(), AverageMeter(), AverageMeter()
    with torch.inference_mode():
        for images, target in loader:
            output = model(images)
            losses.update(criterion(output, target).item(), len(images))
            top1.update(accuracy(output, target, topk=(1, 5))[0].item(), len(images))
    return float(top1.avg)


def speed(place: str, name: str = "deit_t", threads: str = "2", rounds: str = str(_ROUNDS)) -> None:
    """Print what both take, in turns, and the ratio of neighbours."""
    torch.set_num_threads(int(threads))
    with tempfile.TemporaryDirectory() as folder:
        tar = pack(Path(place), Path(folder) / "images.tar", _TIMED)
        runs = [(took(ours, tar, name), took(timms, tar, name)) for _ in range(1 + int(rounds))][1:]
    mine, theirs = (statistics.median(run[side][0] for run in runs) for side in (0, 1))
    seconds = [1000 * statistics.median(run[side][1] for run in runs) for side in (0, 1)]
    print(
        f"images/s: {mine:.1f}, timm {theirs:.1f}, ratio {statistics.median(a[0] / b[0] for a, b in runs):.2f}; "
        f"processor ms an image: {seconds[0]:.1f}, timm {seconds[1]:.1f}, with worker processes"
    )


def took(evaluate: Callable[[Path, str], float], tar: Path, name: str) -> tuple[float, float]:
    """Return images per second and processor seconds an image, those of ended worker processes included."""
    start, processor = time.perf_counter(), sum(os.times()[:4])
    top1 = evaluate(tar, name)
    speed = _TIMED / (time.perf_counter() - start)
    print(f"  {evaluate.__name__}: {speed:.1f} images/s, top-1 {top1:.2f} %", flush=True)
    return speed, (sum(os.times()[:4]) - processor) / _TIMED


def memory(place: str, name: str = "deit_t", threads: str = "2") -> None:
    """Print the line, or as a child the peak in MiB of an evaluation of the one tar file given."""
    if place.endswith(".tar"):
        torch.set_num_threads(int(threads))
        with metered(_CPU) as meter:
            ours(Path(place), name)
        print(meter.peak_mb)
        return
    with tempfile.TemporaryDirectory() as folder:
        tars = [pack(Path(place), Path(folder) / f"{count}.tar", count) for count in (_FEW, _MANY)]
        words = [[sys.executable, __file__, "memory", str(tar), name, threads] for tar in tars]
        few, many = (float(subprocess.run(w, check=True, capture_output=True, text=True).stdout) for w in words)
    print(f"peak memory: {few:.0f} MiB for {_FEW} images, {many:.0f} MiB for {_MANY}; {many - few:+.0f} MiB")


def table(folder: Path) -> tuple[float, float]:
    """Return wall-clock and processor seconds of a console table; raises RuntimeError when it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = python("-m", "harness.leaderboard", str(folder))
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.code != 0:
        raise RuntimeError(done.err)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def tables(*counts: str) -> None:
    """Print a line per count of records."""
    for count in [int(word) for word in counts] or [1000, 20_000]:
        with tempfile.TemporaryDirectory() as place:
            many_records(Path(place) / "results", count)
            runs = [table(Path(place) / "results") for _ in range(_ROUNDS)]
        wall, processor = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"{count:6d} records: {wall:.2f} s wall, {processor:.2f} s processor (median of {_ROUNDS})")


if __name__ == "__main__":
    _COMMANDS: dict[str, Callable[..., None]] = {"speed": speed, "memory": memory, "tables": tables}
    _COMMANDS[sys.argv[1]](*sys.argv[2:])
