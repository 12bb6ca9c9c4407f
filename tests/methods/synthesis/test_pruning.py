"""Pruned patches: which tokens go on, where patches are in a view, which stay, and what is erased, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import noise, tiny_distilled, tiny_vit
from torch import Tensor

from methods.optimisation.views import View
from methods.synthesis.smi import erased, followed, only_patches, strongest

KEPT = torch.tensor([[0, 5, 7], [2, 3, 15]])


@pytest.mark.parametrize(
    "model", [tiny_vit(), tiny_distilled(), tiny_vit(reg_tokens=3), tiny_vit(patch_drop_rate=0.5)]
)
def test_blocks_see_the_prefix_and_the_kept_patches_alone(model: Any) -> None:
    images, seen = noise(2).requires_grad_(True), list[Tensor]()
    hook = model.blocks[0].register_forward_pre_hook(lambda m, a: seen.append(a[0].detach()))
    whole = model(images)
    with only_patches(model, KEPT):
        pruned = model(images)
    hook.remove()
    again = model(images)
    prefix = model.num_prefix_tokens
    for image in range(2):
        wanted = [*range(prefix), *(prefix + patch for patch in KEPT[image].tolist())]
        assert torch.equal(seen[1][image], torch.stack([seen[0][image, token] for token in wanted]))
    assert torch.equal(whole, again)
    assert (whole - pruned).abs().min().item() > 1e-4
    pruned.square().sum().backward()
    assert images.grad is not None
    moved = images.grad.abs().sum(1).unflatten(2, (4, 4)).unflatten(1, (4, 4)).sum((2, 4)).flatten(1)
    assert [row.nonzero().flatten().tolist() for row in moved] == KEPT.tolist()


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (View(), [0, 5, 11]),
        (View(down=4, right=8), [5, 10, 0]),  # 3x4 patches of 4x8 px; rows 0, 1, 2 to 1, 2, 0
        (View(down=1, right=-3), [0, 5, 11]),  # nearest: less than half a patch
        (View(down=3, right=-5), [7, 8, 2]),
        (View(flipped=True), [3, 6, 8]),
        (View(right=8, flipped=True), [2, 5, 11]),
    ],
)
def test_patches_are_followed_to_the_nearest_one(view: View, expected: list[int]) -> None:
    assert followed(torch.tensor([[0, 5, 11]]), view, (3, 4), (4, 8)).tolist() == [expected]


def test_patches_are_followed_exactly_where_rolls_are_whole_patches() -> None:
    marks = torch.arange(12.0).view(1, 1, 3, 4)
    for view in (View(2, 3), View(-1, 1, True), View(0, -2, True)):
        pixels = View(4 * view.down, 4 * view.right, view.flipped)
        shown = view.show(marks).flatten()
        assert shown[followed(torch.arange(12)[None], pixels, (3, 4), (4, 4))[0]].tolist() == list(range(12))


def test_the_patches_with_the_most_attention_stay_in_their_order() -> None:
    attention = torch.tensor([[0.1, 0.5, 0.2], [0.7, 0.2, 0.6]])
    assert strongest(KEPT, attention, 0.3).tolist() == [[5, 7], [2, 15]]
    assert strongest(KEPT, attention, 0.9).tolist() == [[5], [2]]
    every = torch.arange(196)[None]
    counts = [196]
    for _ in range(4):
        every = strongest(every, torch.rand((1, counts[-1]), generator=torch.Generator().manual_seed(0)), 0.3)
        counts.append(every.shape[1])
    assert counts == [196, 137, 96, 67, 47]


def test_erased_patches_are_zero_and_others_untouched() -> None:
    images = torch.full((2, 3, 4, 8), 2.0)
    images[:, :, 0, 0] = torch.nan
    cleared = erased(images, torch.tensor([[1], [2]]), (2, 2))
    expected = torch.zeros(2, 3, 4, 8)
    expected[0, :, :2, 4:] = 2.0
    expected[1, :, 2:, :4] = 2.0
    assert torch.equal(cleared, expected)
