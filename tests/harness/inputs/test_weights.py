"""Weights: where they are looked for, and that only plain checkpoints of the right shape are loaded."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from harness.inputs.named_models import select_models
from harness.inputs.weights import Weights, find_weights, load_model
from harness.inputs.zoo import ENTRIES
from harness.record.files import hash_file
from methods.errors import UsageError

NAME = "test_vit.r160_in1k"
ENTRY = select_models([NAME])[0]


def checkpoint(arch: str = "test_vit", seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    state: dict[str, torch.Tensor] = timm.create_model(arch, pretrained=False).state_dict()
    return state


def load_from(folder: Path) -> torch.nn.Module:
    return load_model(ENTRY, find_weights(ENTRY, str(folder)))


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_folder_gives_exactly_the_saved_tensors(tmp_path: Path, suffix: str) -> None:
    saved, path = checkpoint(), tmp_path / f"{NAME}.{suffix}"
    if suffix == "pth":
        torch.save(saved, path)
    else:
        save_file(saved, path)
    weights = find_weights(ENTRY, str(tmp_path))
    assert weights == Weights(path, hash_file(path))
    model = load_model(ENTRY, weights)
    loaded = model.state_dict()
    assert set(loaded) == set(saved)
    assert all(torch.equal(loaded[key], saved[key]) for key in saved)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_safetensors_go_before_pickles(tmp_path: Path) -> None:
    save_file(checkpoint(seed=1), tmp_path / f"{NAME}.safetensors")
    torch.save(checkpoint(seed=2), tmp_path / f"{NAME}.pth")
    found = find_weights(ENTRY, str(tmp_path)).path
    assert found is not None
    assert found.suffix == ".safetensors"


def test_the_environment_names_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(checkpoint(), tmp_path / f"{NAME}.safetensors")
    monkeypatch.setenv("DFQ_WEIGHTS", str(tmp_path))
    assert find_weights(ENTRY, None).path == tmp_path / f"{NAME}.safetensors"
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(UsageError, match="other"):
        find_weights(ENTRY, str(other))


def test_a_relative_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(checkpoint(), tmp_path / f"{NAME}.safetensors")
    monkeypatch.chdir(tmp_path)
    assert find_weights(ENTRY, ".").path == tmp_path / f"{NAME}.safetensors"


def test_a_folder_without_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        find_weights(ENTRY, str(tmp_path))
    for word in (NAME, str(tmp_path), f"{NAME}.safetensors", f"{NAME}.pth"):
        assert word in str(error.value)


def test_embedded_models_need_no_folder(tmp_path: Path) -> None:
    for source in (None, str(tmp_path)):
        path = find_weights(ENTRIES["vit_digits"], source).path
        assert path is not None
        assert path.parts[-3:] == ("inputs", "embedded", "vit_digits.safetensors")


def test_another_architecture_is_refused_with_the_first_keys(tmp_path: Path) -> None:
    right, other = checkpoint(), checkpoint("test_vit3")
    first = next(key for key in right if key not in other)
    save_file(other, tmp_path / f"{NAME}.safetensors")
    with pytest.raises(UsageError) as error:
        load_from(tmp_path)
    assert f"is not a checkpoint of {NAME}" in str(error.value)
    assert f"{first} is missing" in str(error.value)


def test_other_shapes_and_extra_keys_are_refused(tmp_path: Path) -> None:
    saved = checkpoint()
    saved["head.bias"] = torch.zeros(10)
    saved["something.else"] = torch.zeros(1)
    save_file(saved, tmp_path / f"{NAME}.safetensors")
    with pytest.raises(UsageError) as error:
        load_from(tmp_path)
    assert "head.bias has shape (10,), not (1000,)" in str(error.value)
    assert "something.else is not part of the model" in str(error.value)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"{NAME}.{suffix}"
    if suffix == "pth":
        torch.save(checkpoint(), path)
    else:
        save_file(checkpoint(), path)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    with pytest.raises(UsageError, match="cannot be read as a checkpoint") as error:
        load_from(tmp_path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("suffix", "head", "sentence"),
    [
        ("safetensors", b"", "cannot be read as a checkpoint"),
        ("safetensors", b"\x02" + bytes(7) + b"{}", "cannot be read as a checkpoint"),
        ("pth", b"", "neither a zip file nor a pickle"),
        ("pth", b"\x80\x02", "is larger than 32 GiB"),
    ],
)
def test_what_cannot_be_a_checkpoint_is_refused_before_it_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, head: bytes, sentence: str
) -> None:
    path = tmp_path / f"{NAME}.{suffix}"
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(50 << 30 if head[:1] == b"\x80" else 1 << 30)
    monkeypatch.setattr("harness.inputs.weights.hash_file", lambda _path: pytest.fail("it was hashed"))
    with pytest.raises(UsageError, match=sentence):
        find_weights(ENTRY, str(tmp_path))


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def _torch_bomb(path: Path, bomb: Bomb) -> None:
    torch.save({**checkpoint(), "head.weight": bomb}, path)


def _bare_bomb(path: Path, bomb: Bomb) -> None:
    path.write_bytes(pickle.dumps(bomb))


def _legacy_bomb(path: Path, bomb: Bomb) -> None:
    torch.save({"head.weight": bomb}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [_torch_bomb, _bare_bomb, _legacy_bomb])
def test_pickle_bombs_are_refused_and_do_not_go_off(tmp_path: Path, write: Any) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    write(folder / f"{NAME}.pth", Bomb(tmp_path / "exploded"))
    with pytest.raises(UsageError, match="cannot be read as a checkpoint"):
        load_from(folder)
    assert not (tmp_path / "exploded").exists()
    assert sorted(child.name for child in tmp_path.iterdir()) == ["weights"]


@pytest.mark.parametrize("content", [[1, 2, 3], "text", {"head.weight": 3}, torch.zeros(3)])
def test_pickles_that_are_no_checkpoint_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / f"{NAME}.pth")
    with pytest.raises(UsageError):
        load_from(tmp_path)


def test_random_weights_are_marked_and_the_same_every_time() -> None:
    weights = find_weights(ENTRY, "random")
    assert weights == Weights(None, "random")
    torch.manual_seed(11)
    first = load_model(ENTRY, weights).state_dict()
    torch.manual_seed(12)
    second = load_model(ENTRY, weights).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert float(first["head.weight"].std()) > 0


def test_without_a_network_the_sentence_says_how_to_give_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def unreachable(repository: str, name: str) -> str:
        asked.append((repository, name))
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(UsageError) as error:
        find_weights(ENTRIES["deit_t"], None)
    assert asked == [("timm/deit_tiny_patch16_224.fb_in1k", "model.safetensors")]
    for word in ("deit_t", "--weights DIR", "DFQ_WEIGHTS", "deit_tiny_patch16_224.fb_in1k.safetensors"):
        assert word in " ".join([str(error.value), *error.value.__notes__])


def test_the_hub_gives_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(checkpoint(), tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(tmp_path / "model.safetensors"))
    assert find_weights(ENTRY, None) == Weights(
        tmp_path / "model.safetensors", hash_file(tmp_path / "model.safetensors")
    )
