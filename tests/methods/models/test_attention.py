"""Attention maps read by hooks against the softmax of timm's own non-fused attention."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from family_kit import images_of, model_of
from tiny_models import noise, tiny_distilled, tiny_swin, tiny_vit
from torch import Tensor

from methods.models.architecture import attention_modules, attention_sites, patch_sites
from methods.models.attention import attention_maps, attention_operands, attention_outputs
from methods.models.sites import AttentionSite

MODELS = {
    "class token": tiny_vit(),
    "registers": tiny_vit(reg_tokens=3),
    "distilled": tiny_distilled(),
    "average pooled": tiny_vit(class_token=False, global_pool="avg"),
    "average pooled with registers": tiny_vit(class_token=False, reg_tokens=2, global_pool="avg"),
    "class token, averaged": tiny_vit(global_pool="avg"),
    "normalized queries and keys": tiny_vit(qk_norm=True),
    "no q/k/v bias": tiny_vit(qkv_bias=False),
    "swin": tiny_swin(),
}


def softmax_of(model: Any, images: Tensor) -> list[Tensor]:
    """Return timm's full softmax attention of every block, [maps, heads, queries, keys], in float64."""
    plain = copy.deepcopy(model).double()
    found: list[Tensor] = []
    for attention in attention_modules(plain):
        attention.fused_attn = False
        attention.attn_drop.register_forward_hook(lambda *a: found.append(a[2]))
    with torch.no_grad():
        plain(images.double())
    return found


def expected_rows(site: AttentionSite, full: Tensor, images: int) -> Tensor:
    """Return the head's distribution over patches, [images, windows, heads, cells]."""
    if site.class_token:
        rows = full[:, :, 0, site.prefix :]
    else:
        queries = full[:, :, site.prefix :]
        rows = sum(queries[:, :, i, site.prefix :] for i in range(queries.shape[2])) / queries.shape[2]  # type: ignore[assignment]
    return rows.reshape(images, -1, *rows.shape[1:])


@pytest.mark.parametrize("name", MODELS)
def test_maps_equal_the_softmax_of_unfused_attention(name: str) -> None:
    model, images = MODELS[name], noise(3)
    sites = attention_sites(model)
    fused = [site.module.fused_attn for site in sites]
    if name != "swin":
        assert fused == [True] * len(sites)
    plain = model(images)
    with attention_maps(sites, 3) as maps:
        logits = model(images)
        assert [site.module.fused_attn for site in sites] == fused
    assert torch.equal(logits, plain)
    full = softmax_of(model, images)
    assert len(maps) == len(sites) == len(full)
    for site, found, attention in zip(sites, maps, full, strict=True):
        expected = expected_rows(site, attention, 3)
        assert found.shape == (3, site.windows, site.heads, 16) == expected.shape
        assert (found.double() - expected).abs().max().item() < 1e-5
        assert expected.std().item() > 1e-2  # far from uniform


def test_swin_is_compared_on_shifted_windows_where_the_mask_counts() -> None:
    model = tiny_swin()
    block = model.layers[0].blocks[1]
    assert block.shift_size == (2, 2)
    assert block.attn_mask.shape == (4, 16, 16)
    images = noise(2)
    with attention_maps(attention_sites(model), 2) as masked:
        model(images)
    block.attn_mask = None
    with attention_maps(attention_sites(model), 2) as unmasked:
        model(images)
    assert torch.equal(masked[0], unmasked[0])
    assert (masked[1][:, 0] - unmasked[1][:, 0]).abs().max().item() < 1e-6  # the first window holds no seam
    assert (masked[1][:, 1:] - unmasked[1][:, 1:]).abs().max().item() > 1e-2


@pytest.mark.parametrize("name", ["class token", "swin"])
def test_only_the_first_images_and_the_given_sites_are_read(name: str) -> None:
    model, images = MODELS[name], noise(4)
    sites = attention_sites(model)
    with attention_maps(sites, 4) as every:
        model(images)
    with attention_maps(sites[1:2], 2) as few:
        model(images)
    assert len(few) == 1
    assert torch.allclose(few[0], every[1][:2], atol=1e-6)


def test_hooks_are_gone_after_the_pass_also_after_an_error() -> None:
    model = tiny_vit()
    with pytest.raises(RuntimeError, match="stop"), attention_maps(attention_sites(model), 1) as maps:
        model(noise(1))
        raise RuntimeError("stop")
    model(noise(1))
    assert len(maps) == 2
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["test_vit", "xcit_nano_12_p16_224", "levit_128s", "shvit_s1"])
def test_watching_leaves_no_trace(name: str) -> None:
    model = model_of(name)
    sites, images = attention_sites(model), images_of(model, 1)
    kinds = [type(module) for module in model.modules()]
    expected = model(images)
    readers: list[Callable[[Any], Any]] = [attention_outputs, lambda chosen: attention_maps(chosen, 1)]
    for reader in readers:
        with reader(sites):
            assert torch.allclose(model(images), expected, atol=1e-5)
        assert [type(module) for module in model.modules()] == kinds
    assert torch.equal(model(images), expected)


def test_operands_make_the_map() -> None:
    """The softmax of Q K^T, as it is read, is the map that is read."""
    model = model_of("levit_128s")
    sites = [site for site in patch_sites(model) if site.grid == (14, 14)][:1]
    with torch.no_grad(), attention_operands(sites) as operands, attention_maps(sites, 1) as maps:
        model(images_of(model, 1))
    [(query, key)], [found] = operands, maps
    module: Any = sites[0].module
    scores = query @ key.transpose(-2, -1) * module.scale + module.get_attention_biases(query.device)
    assert torch.allclose(scores.softmax(dim=-1).mean(dim=-2), found, atol=1e-5)
