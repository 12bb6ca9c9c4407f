"""The images command: the files say the same images, and the diagnosis says what a slow computation says."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness_kit import Outcome, run_here
from PIL import Image
from safetensors import safe_open

import harness as dfq
from harness import images
from harness.trial.diagnosis import low_share

MADE = ["--model", "vit_digits", "--method", "spdfq", "--images", "3", "--set", "spdfq.iterations=1"]


def run_images(folder: Path, *words: str) -> Outcome:
    return run_here(images.main, [*words, "--results", str(folder / "results"), "--out", str(folder / "out")])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("images")
    outcome = run_images(folder, *MADE, "--diagnose")
    assert outcome.code == 0, outcome.err
    return folder / "out", outcome


def test_all_files_tell_of_the_same_images(made: tuple[Path, Outcome]) -> None:
    folder, _ = made
    rows = list(csv.DictReader((folder / "labels.csv").read_text().splitlines()))
    with safe_open(folder / "images.safetensors", "pt") as file:
        tensors, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    exact: Any = dfq.synthesize(dfq.load_model("vit_digits"), "spdfq", images=3, iterations=1, progress=False)
    assert torch.equal(tensors["images"], exact.images)
    assert torch.equal(tensors["targets"], exact.targets)
    assert (about["method"], about["seed"], json.loads(about["settings"])["images"]) == ("spdfq", "0", 3)
    mean, std = (np.array(json.loads(about[name])) for name in ("mean", "std"))
    for index, row in enumerate(rows):
        label = int(row["label"])
        assert row["file"] == f"{index}-{row['name']}.png"
        assert float(row["share"]) == pytest.approx(float(tensors["targets"][index, label]))
        shown = np.asarray(Image.open(folder / row["file"]), np.float64) / 255
        values = tensors["images"][index].numpy().transpose(1, 2, 0) * std + mean
        assert np.abs(shown - values.clip(0, 1)).max() <= 0.5001 / 255
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_the_diagnosis_names_every_image_and_their_mean(made: tuple[Path, Outcome]) -> None:
    folder, outcome = made
    assert [word for word in ("own class", "low", "contrast", "mean") if word not in outcome.out] == []
    assert all(path.stem in outcome.out for path in folder.glob("[0-9]-*.png"))


def test_low_frequencies_are_those_below_a_thirty_second() -> None:
    place = torch.arange(64, dtype=torch.float64)
    low, high = (torch.cos(2 * math.pi * place * cycles / 64)[None, :].expand(64, 64) for cycles in (1, 8))
    pictures = torch.stack([5 + 2 * low, 2 * low + high, high])[:, None].float()
    assert low_share(pictures).tolist() == pytest.approx([1, 0.8, 0], abs=1e-5)  # 2^2 : 1^2


def test_images_without_a_class_have_no_diagnosis(tmp_path: Path) -> None:
    outcome = run_images(tmp_path, "--method", "noise", "--images", "2", "--diagnose")
    assert outcome.code == 2
    assert "Images of noise have no class" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "nois"], "Did you mean 'noise'"),
        (["--seeds", "0,1"], "one seed make a folder"),
        (["--set", "psaq_vit.images=3"], "has no effect"),
    ],
)
def test_mistakes_write_nothing(tmp_path: Path, words: list[str], said: str) -> None:
    outcome = run_images(tmp_path, *words)
    assert outcome.code == 2
    assert said in outcome.err
    assert not (tmp_path / "out").exists()
