"""Helpers of the harness tests: run the command in this process or another, snapshot folders, make records."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness import bench, leaderboard
from harness.record import correctness
from harness.record.cells import read_word
from harness.record.files import hash_key
from harness.record.record import Failed, Finished, Record
from harness.record.seal import sealed
from harness.report.tables import Table

ROOT = Path(__file__).parents[2]
TINY = ["--models", "vit_digits", "--backends", "minmax", "--limit", "50"]
SHA = "a" * 64
PROVENANCE = {
    "commit": "c0ffee",
    "command": "python -m harness.bench",
    "started": "2026-11-26T10:00:00+00:00",
    "time": "2026-11-26T10:01:00+00:00",
    "device": "cpu",
    "processor": "a processor",
    "cores": 2,
    "threads": 1,
    "executor": "local",
    "plugins": {},
}


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str


def run_here(command: Any, words: list[str]) -> Outcome:
    """Run a command's main in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command(words)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    return Outcome(code, out.getvalue(), err.getvalue())


def run_bench(results: Path, *words: str) -> Outcome:
    """Run the main job in this process with the local executor."""
    return run_here(bench.main, ["--executor", "local", "--device", "cpu", "--results", str(results), *words])


def run_leaderboard(*words: str) -> Outcome:
    """Run the leaderboard command in this process."""
    return run_here(leaderboard.main, list(words))


def python(*words: str, timeout: float = 240) -> Outcome:
    """Run Python in the repository root, without the developer's own data and weights."""
    hidden = ("DFQ_DATA", "DFQ_WEIGHTS", "PYTHONWARNINGS")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def records_of(results: Path) -> dict[str, dict[str, Any]]:
    """Return the records under a results folder by file stem."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((results / "records").glob("*"))}


def by_cell(results: Path) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the records by (model, method, backend, bits, seed)."""
    names = ("model", "method", "backend", "bits", "seed")
    return {tuple(str(record["cell"][name]) for name in names): record for record in records_of(results).values()}


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return {relative path: (mtime in ns, content)} of all files under a folder, empty if there is none."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def synthesis_files(results: Path) -> list[Path]:
    """Return the cached syntheses."""
    return sorted((results / "cache" / "synthesis").glob("*.safetensors"))


def flip_last_byte(path: Path) -> None:
    """Damage a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x01
    path.write_bytes(bytes(content))


def random_image(seed: int, width: int = 40, height: int = 32) -> Image.Image:
    """Return an image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save_image(path: Path, seed: int, width: int = 40, height: int = 32) -> None:
    """Write an image of random pixels, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random_image(seed, width, height).save(path)


def flat_folder(folder: Path, count: int = 4) -> Path:
    """Make a flat folder of images with a labels.csv, image i of class i."""
    for index in range(count):
        save_image(folder / f"{index}.jpg", index)
    lines = ["path,label", *(f"{index}.jpg,{index}" for index in range(count))]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def images_checksum(images: Tensor) -> str:
    """Return what `images_sha256` is documented to be, written out by hand."""
    digest = hashlib.sha256(b"")
    digest.update(f"images {images.dtype} {tuple(images.shape)}".encode())
    digest.update(images.numpy().tobytes())
    return digest.hexdigest()


def stream(text: str) -> torch.Generator:
    """Return the generator of a stream by its full name, such as "0/synthesis"."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") // 2
    return torch.Generator().manual_seed(seed)


def _metrics(n: int, top1: float | None, fp32: float | None, agreement: float, counted: bool) -> dict[str, Any]:
    """Return metrics that agree with one another; `counted`: top-1 is that of given per-image correctness."""
    return {
        "top1": top1,
        "top5": None if top1 is None else max(top1, 100.0 if counted else 90.0),
        "stderr": None if top1 is None else (top1 * (100 - top1) / n) ** 0.5,
        "n": n,
        "fp32_top1": fp32,
        "agreement": agreement,
    }


def make_fields(
    key: str,
    *,
    model: str = "vit_x",
    method: str = "noise",
    backend: str = "minmax",
    bits: str = "w4a4",
    seed: int = 0,
    data: str = "val",
    n: int = 100,
    data_sha256: str = SHA,
    top1: float | None = 50.0,
    fp32: float | None = 80.0,
    agreement: float = 60.0,
    status: str = "ok",
    overrides: dict[str, Any] | None = None,
    meaningless: bool = False,
    weights: str = "w" * 64,
    hits: list[bool] | None = None,
    libraries: dict[str, str] | None = None,
    method_version: int = 1,
    kl: float | None = 0.25,
) -> dict[str, Any]:
    """Return what the file of a record holds; per-image correctness, if given, sets n and top-1."""
    if hits is not None:
        n, top1 = len(hits), 100 * sum(hits) / len(hits)
    stage = {"seconds": 1.5, "peak_mb": 10.0, "cached": False}
    last: dict[str, Any] = {"error": "RuntimeError: boom", "traceback": "Traceback"}
    if status == "ok":
        last = {
            "metrics": {**_metrics(n, top1, fp32, agreement, bool(hits)), "kl": kl},
            "stages": {"synthesize": stage, "quantize": stage, "evaluate": stage},
            "quantized_ops": [],
            "images_sha256": "b" * 64,
            "logits_sha256": None,
            "correct_bits": None if hits is None else correctness.pack(hits),
            "error": None,
        }
    return {
        "schema": 1,
        "key": key,
        "status": status,
        "cell": {
            "model": model,
            "method": method,
            "backend": backend,
            "bits": bits,
            "seed": seed,
            "data": {"name": data, "n": n, "sha256": data_sha256},
            "overrides": overrides or {},
            "calibration": None,
        },
        "config": {"method": {}, "backend": {}},
        "versions": {"method": method_version, "backend": 1, "libraries": libraries or {}},
        "weights": {"tag": model, "sha256": weights},
        "meaningless": meaningless,
        "simulated": True,
        "provenance": PROVENANCE,
        **last,
    }


def typed(fields: dict[str, Any]) -> Record:
    """Return the record that fields hold, whatever its key."""
    record: Record = msgspec.convert({**fields, "key": "0" * 64}, Finished | Failed, dec_hook=read_word)
    return msgspec.structs.replace(record, key=fields["key"])


def make_record(key: str, **words: Any) -> Record:
    """Return a record as a trial would leave it, made of what `make_fields` takes."""
    return typed(make_fields(key, **words))


def correct(n: int, hits: int, seed: int = 0) -> list[bool]:
    """Return the correctness of n images, a random choice of `hits` of them right."""
    chosen = set(np.random.default_rng(seed).permutation(n)[:hits].tolist())
    return [place in chosen for place in range(n)]


def keyed(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields under the key that follows from what they hold."""
    versions, weights = fields["versions"], fields["weights"]
    names = ("method_version", "backend_version", "weights_sha256")
    identity = dict(zip(names, (versions["method"], versions["backend"], weights["sha256"]), strict=True))
    return {**fields, "key": hash_key({"cell": fields["cell"], "identity": identity})}


def many_records(results: Path, count: int) -> None:
    """Write records of DeiT-Tiny's size: 5 seeds, 4 widths, 10 models, and as many methods as it takes."""
    ops = [{"operation": f"blocks.{i}.attn.qkv weight", "quantizer": "uniform, " * 6, "bits": 4} for i in range(120)]
    rng = np.random.default_rng(0)
    (results / "records").mkdir(parents=True)
    for number in range(count):
        seed, width, model, method = number % 5, number // 5 % 4, number // 20 % 10, number // 200
        hits = (rng.random(891) < 0.5 + width / 10).tolist()
        record = make_fields(
            "",
            model=f"vit_{model}",
            method=f"m{method}",
            bits=f"w{width + 3}a8",
            seed=seed,
            hits=hits,
            fp32=100 * 700 / 891,
            agreement=100 * 600 / 891,
        )
        record = keyed({**record, "quantized_ops": ops})
        (results / "records" / f"{record['key']}.json").write_bytes(sealed(record))


def put(results: Path, fields: dict[str, Any]) -> Path:
    """Write a record's file, without a seal, under the key that follows from it, sound or not."""
    fields = keyed(fields)
    path = results / "records" / f"{fields['key']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))
    return path


def texts(table: Table) -> dict[str, list[str | None]]:
    return {label: [value.text() if value else None for value in values] for label, values in table.rows}


def best(table: Table) -> dict[str, list[bool | None]]:
    return {label: [value.best if value else None for value in values] for label, values in table.rows}


def seeds(method: str, figures: list[float], **fields: Any) -> list[Record]:
    return [
        make_record(f"{method}-{fields.get('bits', '')}-{seed}", method=method, seed=seed, top1=top1, **fields)
        for seed, top1 in enumerate(figures)
    ]
