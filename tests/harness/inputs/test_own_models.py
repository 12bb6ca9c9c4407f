"""Checkpoints of one's own: what describes them, how they are made to fit, and one from training to its table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from harness_kit import run_here
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from harness import bench
from harness.inputs.digits import digits_split
from harness.inputs.images.sets import ArrayImages
from harness.inputs.model_info import told
from harness.inputs.named_models import select_models
from harness.inputs.weights import find_weights, load_model
from harness.inputs.zoo import ModelEntry
from harness.record.records import load_records
from methods.errors import UsageError

TINY = {"num_classes": 7, "img_size": 32, "patch_size": 8}
TOML = """
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
crop = 1.0
size = 32
class_names = ["zero", "one", "two", "three", "four", "five", "six"]
arguments = {patch_size = 8}
"""
NAMES = ("zero", "one", "two", "three", "four", "five", "six")


def own(path: Path, architecture: str = "test_vit") -> ModelEntry:
    [entry] = select_models([architecture], str(path))
    return entry


def loaded(path: Path, architecture: str = "test_vit") -> Any:
    entry = own(path, architecture)
    return load_model(entry, find_weights(entry, str(path)))


def model_of(**options: Any) -> nn.Module:
    torch.manual_seed(1)
    made: nn.Module = timm.create_model("test_vit", **(TINY | options)).eval()
    return made


def described(path: Path, toml: str = TOML) -> Path:
    path.with_suffix(".toml").write_text(toml)
    return path


WRAPPERS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state, "optimizer": {"lr": 0.1}},
    "model_ema": lambda state: {"model": {"nothing": torch.zeros(1)}, "model_ema": state},
    "module.": lambda state: {f"module.{key}": value for key, value in state.items()},
    "_orig_mod.": lambda state: {"state_dict": {f"_orig_mod.{key}": value for key, value in state.items()}},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_checkpoints_come_out_of_their_wrappers(tmp_path: Path, wrapper: str) -> None:
    model, path = model_of(), described(tmp_path / "mine.pth")
    torch.save(WRAPPERS[wrapper](model.state_dict()), path)
    found = loaded(path)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found(images), model(images))
    assert told(found)["adapted"] == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_computed_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    model, path = model_of().to(dtype), described(tmp_path / "mine.safetensors")
    save_file(model.state_dict(), path)
    found = loaded(path)
    assert {value.dtype for value in found.state_dict().values()} == {torch.float32}
    assert all(torch.equal(found.state_dict()[key], value.float()) for key, value in model.state_dict().items())


def test_what_is_said_beside_a_checkpoint_goes_by_rank(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    metadata = {"crop_pct": 0.8, "interpolation": "bilinear", "mean": [0.1, 0.1, 0.1], "std": [1, 1, 1]}
    save_file(model_of().state_dict(), path, metadata={"pretrained_cfg": json.dumps(metadata)})
    hub = {"num_classes": 7, "label_names": list(NAMES), "model_args": {"patch_size": 8}}
    hub["pretrained_cfg"] = {"input_size": [3, 32, 32], "crop_pct": 0.7, "crop_mode": "squash"}
    path.with_name("config.json").write_text(json.dumps(hub))
    path.with_suffix(".toml").write_text("mean = [0.2, 0.3, 0.4]")
    entry = own(path)
    assert (entry.mean, entry.std) == ((0.2, 0.3, 0.4), (1.0, 1.0, 1.0))
    assert (entry.crop, entry.crop_mode, entry.interpolation) == (0.8, "squash", "bilinear")
    assert (entry.size, entry.classes, entry.class_names) == (32, 7, NAMES)
    assert entry.name == "test_vit.mine"
    assert loaded(path).patch_embed.patch_size == (8, 8)


def test_a_description_is_part_of_what_is_measured(tmp_path: Path) -> None:
    path = described(tmp_path / "mine.pth")
    torch.save(model_of().state_dict(), path)
    first = find_weights(own(path), str(path)).sha256
    described(path, TOML.replace("crop = 1.0", "crop = 0.9"))
    assert find_weights(own(path), str(path)).sha256 != first


def test_one_channel_is_the_grey_of_a_picture(tmp_path: Path) -> None:
    path = described(tmp_path / "grey.pth", TOML.replace("[0.5, 0.5, 0.5]", "[0.5]"))
    torch.save(model_of(in_chans=1).state_dict(), path)
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    found = ArrayImages("one", picture, None).pixels(0, own(path))
    assert found.shape == (1, 32, 32)
    grey = picture[0] @ np.array([299, 587, 114]) / 1000  # ITU-R 601
    assert np.abs(np.asarray(found[0]) - grey).max() <= 1
    assert loaded(path).patch_embed.proj.in_channels == 1


def test_position_embeddings_are_resampled_and_it_is_said(tmp_path: Path) -> None:
    path = described(tmp_path / "mine.pth", TOML.replace("size = 32", "size = 48"))
    torch.save(model_of().state_dict(), path)
    found = loaded(path)
    assert told(found)["adapted"] == ("pos_embed resampled from [1, 17, 64] to [1, 37, 64]",)
    assert found.patch_embed.img_size == (48, 48)


def test_a_backbone_does_without_the_head(tmp_path: Path) -> None:
    path = described(tmp_path / "mine.pth", "size = 32\narguments = {patch_size = 8}")
    state = {key: value for key, value in model_of().state_dict().items() if not key.startswith("head.")}
    torch.save(state, path)
    entry = own(path)
    assert (entry.classes, entry.task) == (0, "features")
    with torch.no_grad():
        assert loaded(path)(torch.zeros(1, 3, 32, 32)).shape == (1, 64)


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        (TOML.replace(', "six"', ""), "has a head of 7 classes, but what is said beside it tells of 6"),
        (TOML.replace('"six"', '"five"'), "two of its classes have one name"),
        (TOML.replace("[0.5, 0.5, 0.5]", "[0.5]"), "takes images of 3 channels"),
        (TOML + "colour = 3", "unknown field `colour`"),
        (TOML.replace("crop = 1.0", "crop = 1.5"), "<= 1.0"),
        (TOML.replace("std = [0.5", "std = [0"), "> 0.0"),
        ("mean =", "cannot be read"),
        (TOML.replace("patch_size = 8", "patches = 8"), "timm cannot build test_vit so"),
        (TOML.replace("size = 32", "size = 35"), "fails in a dry run"),
    ],
)
def test_descriptions_that_do_not_fit_are_one_sentence(tmp_path: Path, toml: str, sentence: str) -> None:
    path = described(tmp_path / "mine.pth", toml)
    torch.save(model_of().state_dict(), path)
    with pytest.raises(UsageError) as error:
        loaded(path)
    assert sentence in str(error.value)
    assert str(error.value).endswith(".")


def test_a_file_goes_with_one_architecture(tmp_path: Path) -> None:
    path = described(tmp_path / "mine.pth")
    torch.save(model_of().state_dict(), path)
    with pytest.raises(UsageError, match="holds one model: name its architecture"):
        select_models(["vit_digits", "swin_digits"], str(path))
    with pytest.raises(UsageError, match="There is no checkpoint"):
        select_models(["test_vit"], str(tmp_path / "other.pth"))
    with pytest.raises(UsageError, match=r"is not a checkpoint of test_vit2\.mine"):
        loaded(path, "test_vit2")


def pictures(train: bool) -> tuple[Tensor, Tensor]:
    """The digits 0 to 6, normalized."""
    images, labels = digits_split(train)
    kept = labels < len(NAMES)
    return torch.from_numpy(images[kept]).permute(0, 3, 1, 2) / 127.5 - 1, torch.from_numpy(labels[kept])


def trained() -> nn.Module:
    """A model of a few epochs, as its owner would have it: behind DataParallel."""
    images, labels = pictures(train=True)
    bare: Any = model_of().train()
    nn.init.trunc_normal_(bare.pos_embed, std=0.3)  # quicker from scratch
    model = nn.DataParallel(bare)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        for batch in torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


def test_a_model_of_ones_own_from_training_to_its_table(tmp_path: Path) -> None:
    model, path = trained(), described(tmp_path / "mine.pth")
    torch.save({"model": model.state_dict()}, path)
    assert all(key.startswith("module.") for key in model.state_dict())
    images, labels = pictures(train=False)
    for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folder = tmp_path / "val" / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    where = f"--weights {path} --data {tmp_path / 'val'} --results {tmp_path / 'r'} --executor local"
    what = "--models test_vit --methods noise,spdfq --backends minmax --bits w8a8"
    few = "--set spdfq.images=4 --set spdfq.iterations=2"
    done = run_here(bench.main, f"{what} {where} {few}".split())
    assert done.code == 0, done.err
    with torch.no_grad():
        expected = 100 * (model(images).argmax(1) == labels).double().mean().item()
    assert expected > 80
    records: list[Any] = load_records([tmp_path / "r"]).sound
    assert [record.metrics.fp32_top1 for record in records] == [expected] * 2
    assert all(abs(record.metrics.top1 - expected) < 3 for record in records)
    assert all(f"{record.metrics.top1:.2f}" in done.out for record in records)
    assert "test_vit.mine" in done.out
