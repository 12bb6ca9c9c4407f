"""Dense and sparse inversion: their loss by the formula, when and what `smi` prunes, which tokens go on."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from test_psaq_vit import context
from tiny_models import noise, tiny_distilled, tiny_swin, tiny_vit
from torch import Tensor, nn
from torch.nn import functional

from methods.contracts import ImageSpace, SyntheticImages
from methods.errors import UsageError
from methods.optimisation.views import View
from methods.registry import METHODS
from methods.synthesis.dmi import DMI, DMIConfig, InversionLoss
from methods.synthesis.smi import SMI, SMIConfig, _SparseLoss, erased, followed, only_patches, strongest

VIT, SWIN = tiny_vit(), tiny_swin()
DENSE = DMIConfig(images=4, iterations=12, jitter=56)
SPARSE = SMIConfig(images=4, iterations=12, jitter=56)  # prunes at steps 2, 3, 6 and 9: 16, 11, 8, 6, 4 patches
KEPT = torch.tensor([[0, 5, 7], [2, 3, 15]])
POINTS, COUNTS = [2, 3, 6, 9], [16, 16, 11, 8, 8, 8, 6, 6, 6, 4, 4, 4]


def dmi(model: Any = VIT, seed: int = 0, micro_batch: int = 1 << 20, **changes: Any) -> SyntheticImages:
    return DMI().synthesize(model, dataclasses.replace(DENSE, **changes), context(seed, micro_batch))


def smi(model: Any = VIT, seed: int = 0, micro_batch: int = 1 << 20, **changes: Any) -> SyntheticImages:
    return SMI().synthesize(model, dataclasses.replace(SPARSE, **changes), context(seed, micro_batch))


def patches(images: Tensor) -> Tensor:
    """Return the 16 patches of 16 px images [n, 16, values]."""
    return images.unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3).transpose(1, 2).flatten(2)


def slow_terms(model: Any, images: Tensor, labels: Tensor, weight: float) -> list[Tensor]:
    """Return the cross-entropy and V of float64 images."""
    variation = (
        images[..., 1:] - images[..., :-1],
        images[..., 1:, :] - images[..., :-1, :],
        images[..., 1:, 1:] - images[..., :-1, :-1],
        images[..., 1:, :-1] - images[..., :-1, 1:],
    )
    logits = copy.deepcopy(model).double()(images)
    return [
        functional.cross_entropy(logits, labels),
        weight * torch.stack([shift.square().sum().sqrt() for shift in variation]).sum(),
    ]


@pytest.mark.parametrize("micro_batch", [1 << 20, 3])
@pytest.mark.parametrize("model", [VIT, SWIN])
def test_dense_loss_and_gradient_equal_the_formula_on_the_images_as_shown(model: Any, micro_batch: int) -> None:
    loss = InversionLoss(model, dataclasses.replace(DENSE, tv_weight=0.1), context(3, micro_batch))
    draws = torch.Generator().manual_seed(3)
    torch.randint(10, (4,), generator=draws)  # the classes
    down, right = (int(torch.randint(-4, 5, (), generator=draws)) for _ in range(2))
    flipped = torch.rand((), generator=draws).item() < 0.5
    assert down != right
    images = noise(4).requires_grad_(True)
    found = {"oh": 0.0, "tv": 0.0}
    for group in loss(images, 0):
        torch.stack(list(group.values())).sum().backward()
        found = {name: found[name] + (group[name].item() if name in group else 0.0) for name in found}
    exact = images.detach().double().requires_grad_(True)
    rolled = exact.roll(down, 2).roll(right, 3)
    expected = slow_terms(model, rolled.flip(3) if flipped else rolled, loss.targets.argmax(1), 0.1)
    torch.stack(expected).sum().backward()
    assert list(found.values()) == pytest.approx([value.item() for value in expected], rel=1e-5)
    assert images.grad is not None
    assert exact.grad is not None
    assert (images.grad.double() - exact.grad).abs().max().item() < 1e-5 * exact.grad.abs().max().item()


def class_attention(model: Any, images: Tensor) -> Tensor:
    """Return the last block's attention of the class token to the patches, mean over heads, unfused in float64."""
    plain, found = copy.deepcopy(model).double(), list[Tensor]()
    attention = plain.blocks[-1].attn
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda *a: found.append(a[2]))
    plain(images.double())
    return found[0].mean(1)[:, 0, model.num_prefix_tokens :]


@pytest.mark.parametrize("micro_batch", [1 << 20, 3])
@pytest.mark.parametrize("model", [VIT, tiny_distilled()])
def test_patches_with_the_least_class_attention_go_at_the_points_alone(model: Any, micro_batch: int) -> None:
    loss, images = _SparseLoss(model, SPARSE, context(micro_batch=micro_batch)), noise(4)
    for step in range(2):
        assert torch.equal(loss.kept, torch.arange(16).expand(4, 16))
        list(loss(images, step))
    expected = class_attention(model, images).argsort(dim=1, descending=True)[:, :11].sort(dim=1).values
    assert torch.equal(loss.kept, expected)


def test_logits_are_those_of_the_kept_patches_wherever_a_view_puts_them() -> None:
    model = copy.deepcopy(VIT)
    model.pos_embed.data.zero_()  # without places, patches may be anywhere
    loss = _SparseLoss(model, SPARSE, context())
    loss.kept = torch.tensor([[0, 6, 9]]).expand(4, 3)
    still = loss.logits(noise(4), slice(0, 4), View(), 4)
    rolled = View(down=8, right=-4)
    assert torch.allclose(loss.logits(rolled.show(noise(4)), slice(0, 4), rolled, 4), still, atol=1e-5)
    assert not torch.allclose(loss.logits(rolled.show(noise(4)), slice(0, 4), View(), 4), still, atol=1e-2)


def test_later_steps_work_on_fewer_tokens_and_points_are_shown_as_they_are() -> None:
    tokens, seen = list[int](), list[Tensor]()
    hooks = [
        VIT.blocks[1].register_forward_pre_hook(lambda m, a: tokens.append(a[0].shape[1])),
        VIT.register_forward_pre_hook(lambda m, a: seen.append(a[0].detach())),
    ]
    start = torch.Generator().manual_seed(0)
    torch.randint(10, (4,), generator=start)
    first = torch.randn((4, 3, 16, 16), generator=start)
    smi(learning_rate=1e-9)
    for hook in hooks:
        hook.remove()
    still = first.clamp(-1, 1)
    assert tokens == [1 + count for count in COUNTS]
    shown_still = [torch.allclose(image, still, atol=1e-5) for image in seen]
    assert [step for step, same in enumerate(shown_still) if same] == [1, 2, 3, 5, 6, 8, 9]


def test_pruned_patches_end_at_zero_and_kept_ones_make_the_class() -> None:
    made = smi(iterations=120, jitter=0, flip=0.0)
    kept = made.extras["kept"]
    assert kept.shape == (4, 4)
    filled = [row.abs().sum(1).nonzero().flatten().tolist() for row in patches(made.images)]
    assert filled == kept.tolist()
    assert made.losses["oh"][-1] < 0.2 * made.losses["oh"][0]
    assert made.targets is not None
    assert torch.equal(made.targets.argmax(1), made.extras["labels"])


def test_classes_are_sorted_and_of_every_kind() -> None:
    labels = dmi(images=64, iterations=1).extras["labels"].tolist()
    assert labels == sorted(labels)
    assert set(labels) == set(range(10))


@pytest.mark.parametrize("make", [dmi, smi])
def test_the_generator_alone_decides_and_micro_batches_change_nothing(make: Any) -> None:
    torch.manual_seed(1)
    first = make(seed=7)
    torch.manual_seed(2)
    again, other, parts = make(seed=7), make(seed=8), make(seed=7, micro_batch=3)
    assert torch.equal(first.images, again.images)
    assert first.losses == again.losses
    assert (first.images - other.images).abs().mean().item() > 0.1
    assert (first.images - parts.images).abs().mean().item() < 1e-3


def test_without_a_point_sparse_is_dense_but_for_the_order_of_the_tokens() -> None:
    sparse, dense = smi(iterations=1), dmi(iterations=1)
    assert (sparse.images - dense.images).abs().mean().item() < 1e-5
    assert sparse.losses["oh"] == pytest.approx(dense.losses["oh"], rel=1e-5)
    assert (smi(iterations=2).images - dmi(iterations=2).images).abs().mean().item() > 0.1


def test_hooks_are_gone_after_the_synthesis() -> None:
    smi()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in VIT.modules())


@pytest.mark.parametrize("model", [SWIN, tiny_vit(class_token=False, global_pool="avg")])
def test_models_without_a_class_token_are_refused_by_smi_alone(model: Any) -> None:
    with pytest.raises(UsageError, match="ranks patches by the attention of the class token"):
        smi(model)
    assert torch.isfinite(dmi(model, iterations=2).images).all()


def test_other_families_are_refused() -> None:
    for make in (dmi, smi):
        with pytest.raises(UsageError, match="Identity is not supported"):
            make(nn.Identity())


def test_defaults_are_the_codes() -> None:
    space = ImageSpace(224, 224, (0.5,) * 3, (0.5,) * 3)
    for name in ("dmi", "smi"):
        config = METHODS.get(name).default_config("deit_t")
        assert (config.images, config.iterations, config.learning_rate, config.tv_weight) == (32, 4000, 0.25, 1e-4)
        assert (config.loop().betas, config.limit(space), config.flip) == ((0.5, 0.99), 28, 0.5)
        assert [config.loop().rate(step) for step in (0, 2000, 3999)] == [1.0, 1.0, 1.0]
        assert METHODS.get(name).short == {"iterations": 100}
    assert DMI().image_passes(DMIConfig()) == 128000
    shares = 50 + 50 * 0.7 + 100 * 0.7**2 + 100 * 0.7**3 + 3700 * 0.7**4
    assert SMI().image_passes(SMIConfig()) == pytest.approx(32 * shares)


@pytest.mark.parametrize(
    ("iterations", "points"),
    [
        (4000, [50, 100, 200, 300]),
        (400, [50, 100, 200, 300]),
        (100, [12, 25, 50, 75]),
        (12, POINTS),
        (2, [1]),
        (1, []),
    ],
)
def test_short_runs_draw_the_points_together(iterations: int, points: list[int]) -> None:
    assert SMIConfig(iterations=iterations).points() == points


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"images": 0}, "images >= 1"),
        ({"tv_weight": -1.0}, "tv_weight >= 0"),
        ({"jitter": -1}, "jitter >= 0"),
        ({"beta2": 1.0}, "beta1 and beta2"),
        ({"iterations": 0}, "iterations >= 1"),
        ({"prune_at": "50,x"}, "list of steps"),
        ({"prune_at": ""}, "list of steps"),
        ({"prune_ratio": 1.0}, "prune_ratio between"),
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SMIConfig(**bad)


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
