"""The zoo: pinned checkpoints, globs, full timm names."""

from __future__ import annotations

import pytest
import torch

from harness.inputs.named_models import select_models
from harness.inputs.seeds import derived_seed, generator
from harness.inputs.zoo import ENTRIES
from methods.errors import UsageError
from methods.models.family import family_named

PAPERS = {  # name: checkpoint, crop, mean of the first channel, FP32 top-1
    "deit_t": ("deit_tiny_patch16_224.fb_in1k", 0.875, 0.485, 72.21),
    "deit_s": ("deit_small_patch16_224.fb_in1k", 0.875, 0.485, 79.85),
    "deit_b": ("deit_base_patch16_224.fb_in1k", 0.875, 0.485, 81.85),
    "vit_t": ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", 0.9, 0.5, 75.46),
    "vit_s": ("vit_small_patch16_224.augreg_in21k_ft_in1k", 0.9, 0.5, 81.39),
    "vit_b": ("vit_base_patch16_224.augreg_in21k_ft_in1k", 0.9, 0.5, 84.54),
    "swin_t": ("swin_tiny_patch4_window7_224.ms_in1k", 0.9, 0.485, 81.35),
    "swin_s": ("swin_small_patch4_window7_224.ms_in1k", 0.9, 0.485, 83.20),
    "swin_b": ("swin_base_patch4_window7_224.ms_in22k_ft_in1k", 0.9, 0.485, 85.27),
}


@pytest.mark.parametrize("name", PAPERS)
def test_short_names_are_pinned(name: str) -> None:
    tag, crop, mean, top1 = PAPERS[name]
    [entry] = select_models([name])
    assert (entry.name, entry.tag, entry.crop, entry.mean[0], entry.expected_top1) == (name, tag, crop, mean, top1)
    assert (entry.size, entry.interpolation, entry.classes, entry.task) == (224, "bicubic", 1000, "imagenet")


@pytest.mark.parametrize("name", PAPERS)
def test_pinned_checkpoints_are_timms_own(name: str) -> None:
    from timm.models import get_pretrained_cfg

    cfg = get_pretrained_cfg(PAPERS[name][0])
    assert cfg is not None
    assert cfg.num_classes == 1000
    assert (cfg.mean, cfg.std) == (ENTRIES[name].mean, ENTRIES[name].std)


def test_globs_run_over_short_names_only() -> None:
    assert [entry.name for entry in select_models(["deit_*"])] == ["deit_t", "deit_s", "deit_b"]
    assert [entry.name for entry in select_models(["*_digits"])] == ["vit_digits", "swin_digits"]
    assert {entry.name for entry in select_models(["*_[tb]"])} == {
        f"{f}_{s}" for f in ("deit", "vit", "swin") for s in "tb"
    }


def test_a_model_named_twice_comes_once_in_the_order_given() -> None:
    names = [entry.name for entry in select_models(["swin_t", "deit_t", "*_t", "deit_t"])]
    assert names == ["swin_t", "deit_t", "vit_t"]


def test_full_timm_names_bring_timms_transform() -> None:
    [entry] = select_models(["vit_tiny_patch16_224.augreg_in21k_ft_in1k"])
    assert entry.tag == "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert (entry.crop, entry.mean, entry.std, entry.size) == (0.9, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 224)
    assert (entry.interpolation, entry.expected_top1, entry.task) == (
        "bicubic",
        75.46,
        "imagenet",
    )  # as vit_t, the same checkpoint
    [small] = select_models(["test_vit.r160_in1k"])
    assert (small.crop, small.size) == (0.95, 160)


def test_bare_timm_names_are_pinned_to_their_default_tag() -> None:
    [entry] = select_models(["deit_tiny_patch16_224"])
    assert entry.tag == "deit_tiny_patch16_224.fb_in1k"


def test_larger_sets_of_imagenet_bring_their_classes() -> None:
    [entry] = select_models(["vit_tiny_patch16_224.augreg_in21k"])
    assert (entry.classes, len(entry.class_names), entry.task) == (21843, 21843, "imagenet-21k-goog")
    assert entry.class_names[:2] == ("n00004475", "n00005787")  # organism, benthos: the first synsets by number


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2.lvd142m", "vit_base_patch16_clip_224.openai"])
def test_backbones_have_no_classes(name: str) -> None:
    [entry] = select_models([name])
    assert (entry.classes, entry.class_names, entry.task) == (0, (), "features")


def test_what_timm_knows_and_this_project_does_not_is_another_sentence_than_the_unknown() -> None:
    with pytest.raises(UsageError, match=r"resnet50\.a1_in1k is a model of timm.* not supported") as error:
        select_models(["resnet50.a1_in1k"])
    assert "Unknown" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "family"),
    [("beit_base_patch16_224", "BEiT"), ("xcit_nano_12_p8_224", "XCiT"), ("mobilevit_xxs", "MobileViT")],
)
def test_other_families_go_by_their_names_in_timm(name: str, family: str) -> None:
    [entry] = select_models([name])
    assert entry.tag.startswith(f"{name}.")
    assert family_named(entry.name).name == family


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("diet_t", "deit_t"), ("vit_digit", "vit_digits"), ("swin_bb", "swin_b"), ("Deit_s", "deit_s")],
)
def test_unknown_names_suggest_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"Unknown model '{name}'. Did you mean '{nearest}'"):
        select_models([name])


@pytest.mark.parametrize("name", ["nothing_*", "vit_*_nothing", "deit_tiny_patch16_224.fb_in1kk", "vit_nothing"])
def test_names_that_lead_nowhere_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="Unknown model"):
        select_models([name])


@pytest.mark.parametrize(
    ("seed", "purpose", "expected"),
    [(0, ("limit",), 6355335337871803581), (7, ("a", "b"), 8951788601449899029)],
)
def test_values_are_the_first_63_bits_of_a_sha256(seed: int, purpose: tuple[str, ...], expected: int) -> None:
    assert derived_seed(seed, *purpose) == expected


def test_seeds_fit_in_63_bits_and_differ() -> None:
    seeds = [derived_seed(seed, purpose) for seed in range(500) for purpose in ("synthesis", "quantization")]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62, "the top bit is used"


def test_purposes_have_independent_streams() -> None:
    count = 20_000
    first = torch.randn(count, generator=generator(0, "synthesis"))
    second = torch.randn(count, generator=generator(0, "real images"))
    other_seed = torch.randn(count, generator=generator(1, "synthesis"))
    for other in (second, other_seed):
        assert abs(float((first * other).mean())) < 4 / count**0.5
    assert torch.equal(first, torch.randn(count, generator=generator(0, "synthesis")))


def test_generators_leave_the_global_stream_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    torch.rand(9, generator=generator(0, "synthesis"))
    assert torch.equal(torch.rand(4), expected)
