"""Turning residual streams: the function stays, the stream is Q times what it was, what cannot be turned is left."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from test_reparameterize import biasless_vit, gated_vit, padded_swin
from timm.layers import GluMlp
from timm.models.swin_transformer import SwinTransformer
from tiny_models import WIDE, double, noise, randomized, tiny_distilled, tiny_swin, tiny_vit
from torch import Tensor, nn

from methods.backends.blockwise import Blockwise, BlockwiseConfig
from methods.bits import Bits
from methods.contracts import QuantizationContext
from methods.models.architecture import residual_streams
from methods.models.rotate import mean_keeping_rotation, rotated

Build = Callable[[], Any]


def unnormed_swin() -> Any:
    """A Swin whose first stage is not fed by a norm."""
    model = SwinTransformer(
        img_size=16, patch_size=2, num_classes=10, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=4
    )
    model.patch_embed.norm = nn.Identity()
    return randomized(model)


TURNED: dict[str, tuple[Build, int]] = {
    "vit": (tiny_vit, 1),
    "layer scale": (partial(tiny_vit, init_values=0.3), 1),
    "register tokens": (partial(tiny_vit, reg_tokens=2), 1),
    "average pooling": (partial(tiny_vit, global_pool="avg", class_token=False), 1),
    "two heads": (tiny_distilled, 1),
    "no bias in q/k/v": (biasless_vit, 1),
    "swin, its second stage": (tiny_swin, 1),
    "swin, both stages": (unnormed_swin, 2),
}
LEFT: dict[str, Build] = {
    "gate": gated_vit,
    "norm before the blocks": partial(tiny_vit, pre_norm=True),
    "pooling by maximum": partial(tiny_vit, global_pool="max", class_token=False),
    "another MLP": partial(tiny_vit, mlp_layer=GluMlp),
    "no classifier": partial(tiny_vit, num_classes=0),
    "padded windows": padded_swin,
}


@pytest.mark.parametrize("width", [2, 3, 16, 192])
def test_rotation_is_orthogonal_and_keeps_the_mean(width: int) -> None:
    rotation = double(mean_keeping_rotation(width))
    assert rotation @ rotation.T == pytest.approx(np.eye(width), abs=1e-12)
    assert rotation @ np.ones(width) == pytest.approx(np.ones(width), abs=1e-12)
    assert rotation == pytest.approx(double(mean_keeping_rotation(width)), abs=0)


def test_rotation_spreads_one_channel_over_all() -> None:
    rotation = double(mean_keeping_rotation(192))
    assert np.abs(rotation).max() < 0.4  # of a Haar rotation, sqrt(2 log(192^2) / 192) = 0.33


@pytest.mark.parametrize(("build", "streams"), TURNED.values(), ids=TURNED)
def test_function_stays(build: Build, streams: int) -> None:
    model, images = build(), noise(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    turned = rotated(model)
    assert len(residual_streams(model)) == streams
    assert double(turned(images)) == pytest.approx(double(model(images)), abs=2e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("build", "streams"), TURNED.values(), ids=TURNED)
def test_stream_is_turned_and_norms_are_plain(build: Build, streams: int) -> None:
    model, images = build(), noise(2)
    turned = rotated(model)
    for stream in residual_streams(model):
        rotation = double(mean_keeping_rotation(stream.width))
        for reader in stream.readers:
            before, after = (
                inputs(m, reader.norm, images).unflatten(-1, (reader.copies, -1)) for m in (model, turned)
            )
            assert double(after) == pytest.approx(double(before) @ rotation.T, abs=2e-5)
            assert not before.allclose(after, atol=0.1)
            norm: Any = turned.get_submodule(reader.norm)
            assert bool((norm.weight == 1).all())
            assert not bool(norm.bias.any())


def test_layer_scale_of_a_model_in_double_precision_is_not_lost() -> None:
    model, images = tiny_vit(init_values=0.3).double(), noise(3).double()
    assert double(rotated(model)(images)) == pytest.approx(double(model(images)), abs=1e-10)


@pytest.mark.parametrize("build", LEFT.values(), ids=LEFT)
def test_what_cannot_be_turned_is_left_as_it_is(build: Build) -> None:
    model = build()
    assert residual_streams(model) == []
    turned = rotated(model).state_dict()
    assert all(torch.equal(value, turned[name]) for name, value in model.state_dict().items())


def test_backend_quantizes_the_turned_model() -> None:
    model, images, bits = tiny_vit(), noise(4), Bits(4, 4)
    by_option = quantized(model, BlockwiseConfig(iterations=3, rotate=True), bits)
    by_hand = quantized(rotated(model), BlockwiseConfig(iterations=3), bits)
    plain = quantized(model, BlockwiseConfig(iterations=3), bits)
    assert torch.equal(by_option(images), by_hand(images))
    assert not by_option(images).allclose(plain(images), atol=1e-2)


def test_floating_point_is_not_turned() -> None:
    model, images = tiny_vit(), noise(2)
    assert torch.equal(quantized(model, BlockwiseConfig(rotate=True), Bits(32, 32))(images), model(images))


def quantized(model: Any, config: BlockwiseConfig, bits: Bits) -> Any:
    return Blockwise().quantize(model, noise(4), bits, config, QuantizationContext(torch.Generator(), WIDE))


def inputs(model: Any, name: str, images: Tensor) -> Tensor:
    """Return what a module is given."""
    seen: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model(images)
    hook.remove()
    return seen[0]
