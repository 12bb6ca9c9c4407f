"""Attention sites and reconstruction units of the supported families."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from timm.models.convit import ConVit
from timm.models.eva import Eva
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock
from tiny_models import noise, randomized, tiny_distilled, tiny_swin, tiny_vit
from torch import Tensor, nn

from methods.errors import UsageError
from methods.models.architecture import (
    attention_modules,
    attention_sites,
    check_supported,
    completed,
    reconstruction_units,
)
from methods.models.trace import trace

VIT_UNITS = ["patch_embed", "blocks.0", "blocks.1", "head"]
SWIN_UNITS = [
    "patch_embed",
    "layers.0.blocks.0",
    "layers.0.blocks.1",
    "layers.1.downsample",
    "layers.1.blocks.0",
    "layers.1.blocks.1",
    "head.fc",
]


@pytest.mark.parametrize(
    ("model", "names"),
    [(tiny_vit(), VIT_UNITS), (tiny_distilled(), [*VIT_UNITS, "head_dist"]), (tiny_swin(), SWIN_UNITS)],
)
def test_reconstruction_units_come_in_the_order_of_computation(model: Any, names: list[str]) -> None:
    units = reconstruction_units(model)
    assert [name for name, _ in units] == names
    assert all(model.get_submodule(name) is unit for name, unit in units)
    seen: list[str] = []
    for name, unit in units:
        unit.register_forward_hook(lambda *_, name=name: seen.append(name))
    model(noise(1))
    assert seen == names


def tiny_eva() -> Any:
    """Rotary positions, the same for all images, go into every block beside the tokens."""
    torch.manual_seed(0)
    return randomized(Eva(16, 4, embed_dim=16, depth=2, num_heads=2, num_classes=5, use_rot_pos_emb=True))


def test_a_unit_may_take_what_is_the_same_for_all_images() -> None:
    model, seen = tiny_eva(), list[Any]()
    assert [name for name, _ in reconstruction_units(model)] == VIT_UNITS
    block = model.blocks[1]
    hook = block.register_forward_hook(lambda _, *passed: seen.extend(passed), with_kwargs=True)
    model(noise(3))
    hook.remove()
    given, options, out = seen
    with completed(block, given[1:], options):
        assert torch.allclose(block.forward(given[0][[2, 0]]), out[[2, 0]], atol=1e-6)
    assert torch.equal(block.forward(given[0], *given[1:], **options), out)
    assert not torch.allclose(block.forward(given[0]), out, atol=1e-3)


class Taking(nn.Linear):
    """A layer that is given something beside its input."""

    def forward(self, x: Tensor, _beside: object) -> Tensor:  # type: ignore[override]
        """Make nothing of it."""
        return super().forward(x)


class Giving(nn.Module):
    """A model of one such layer; `beside` makes of the images what it is given."""

    default_cfg: ClassVar = {"input_size": (3, 4, 4)}

    def __init__(self, beside: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.layer, self.beside = Taking(48, 5), beside

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.layer(images.flatten(1), self.beside(images))
        return logits


@pytest.mark.parametrize(
    ("beside", "whole"),
    [
        (lambda image: None, True),
        (lambda image: (7, 7), True),
        (lambda image: [torch.ones(4, 2, device=image.device), None], True),
        (lambda image: len(image), False),
        (lambda image: image, False),
        (lambda image: (2, image.mean(1)), False),
        (lambda image: torch.ones(len(image), 3, device=image.device), False),
        (lambda image: "a word", False),
    ],
)
def test_what_may_change_with_the_images_makes_no_unit(beside: Callable[[Tensor], object], whole: bool) -> None:
    assert trace(Giving(beside)).several == (set() if whole else {"layer"})


@pytest.mark.parametrize(
    ("model", "prefix", "class_token"),
    [
        (tiny_vit(), 1, True),
        (tiny_vit(reg_tokens=3), 4, True),
        (tiny_vit(class_token=False, global_pool="avg"), 0, False),
        (tiny_vit(class_token=False, reg_tokens=2, global_pool="avg"), 2, False),
        (tiny_distilled(), 2, True),
    ],
)
def test_vit_sites(model: Any, prefix: int, class_token: bool) -> None:
    sites = attention_sites(model)
    assert [site.module for site in sites] == [model.blocks[0].attn, model.blocks[1].attn]
    assert [(site.depth, site.depths) for site in sites] == [(1, 2), (2, 2)]
    for site in sites:
        assert (site.heads, site.grid, site.windows) == (2, (4, 4), 1)
        assert (site.prefix, site.class_token) == (prefix, class_token)


def test_vit_sites_of_an_oblong_image() -> None:
    assert attention_sites(tiny_vit(img_size=(8, 16)))[0].grid == (2, 4)


def test_swin_sites() -> None:
    model = tiny_swin()
    sites = attention_sites(model)
    assert [site.module for site in sites] == [b.attn for layer in model.layers for b in layer.blocks]
    assert [(site.depth, site.depths) for site in sites] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [(site.heads, site.grid, site.windows) for site in sites] == [(2, (4, 4), 4)] * 2 + [(4, (4, 4), 1)] * 2
    assert not any(site.class_token or site.prefix for site in sites)


def test_attention_modules_in_order() -> None:
    model = tiny_vit()
    assert attention_modules(model) == [model.blocks[0].attn, model.blocks[1].attn]


class TinyResNet(nn.Module):
    """Something like a convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 10)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (TinyResNet(), "TinyResNet"),
    ],
)
def test_other_models_are_refused_with_a_sentence(model: nn.Module, named: str) -> None:
    for refusing in (check_supported, attention_sites, reconstruction_units):
        with pytest.raises(UsageError) as error:
            refusing(model)
        message = str(error.value)
        assert named in message
        assert "not supported" in message
        assert message.endswith(".")
        assert "\n" not in message


@pytest.mark.parametrize(
    "model",
    [
        tiny_vit(block_fn=ResPostBlock),
        tiny_vit(block_fn=ParallelScalingBlock),
        tiny_vit(class_token=False, global_pool="map"),
    ],
)
def test_a_vit_of_other_blocks_or_pooling_has_its_maps_and_units(model: Any) -> None:
    assert [(site.grid, site.heads, site.prefix) for site in attention_sites(model)][:2] == [
        ((4, 4), 2, model.num_prefix_tokens)
    ] * 2
    names = [name for name, _ in reconstruction_units(model)]
    assert names[:3] == ["patch_embed", "blocks.0", "blocks.1"]
    assert names[-1] == "head"


def test_a_gated_sum_of_softmax_outputs_is_a_map_of_attention() -> None:
    """ConViT's (1 - g) softmax(Q K^T) + g softmax(positions), which gets the softmax output's quantizer."""
    model = ConVit(img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=2, local_up_to_layer=1)
    made = {product.name: product.softmax for product in trace(model, (3, 16, 16)).products if product.layer is None}
    assert made == {"blocks.0.attn 0": "", "blocks.0.attn 1": "left", "blocks.1.attn 0": "", "blocks.1.attn 1": "left"}
