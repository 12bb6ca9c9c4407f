"""MaskAQ: both of its terms against slow loops in float64, its student and its rounds."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from test_mimiq import HALF, context
from tiny_models import noise, tiny_swin, tiny_vit
from torch import Tensor, nn

from methods.backends.minmax import MinMax, MinMaxConfig
from methods.bits import Bits
from methods.contracts import QuantizationContext, SynthesisContext, SyntheticImages
from methods.errors import UsageError
from methods.models.architecture import attention_sites
from methods.models.attention import Operands, attention_operands
from methods.synthesis.maskaq import MaskAQ, MaskAQConfig, MaskAQObjective, RowSample, masked_difference
from methods.synthesis.mimiq import MimiQ, MimiQConfig
from methods.synthesis.mimiq_heads import head_dissimilarity

CONFIG = MaskAQConfig(images=3, iterations=3, rounds=2, refresh=2)
VIT, SWIN = tiny_vit(), tiny_swin()


def synthesize(model: Any = VIT, seed: int = 0, micro_batch: int = 1 << 20, **changes: Any) -> SyntheticImages:
    return MaskAQ().synthesize(model, dataclasses.replace(CONFIG, **changes), context(seed, micro_batch))


def operands(model: Any, seed: int) -> list[Operands]:
    with attention_operands(attention_sites(model)) as found:
        model(noise(2, seed=seed))
    return found


def leaves(pair: Operands) -> tuple[Operands, Operands]:
    """The same query and key twice as leaves, in single and in double precision."""
    single, exact = ([t.detach().to(kind).requires_grad_() for t in pair] for kind in (torch.float32, torch.float64))
    return (single[0], single[1]), (exact[0], exact[1])


def assert_same(found: Tensor, expected: Tensor, mine: list[Tensor], slow: list[Tensor]) -> None:
    """Values and gradients of a weighted sum agree."""
    weights = torch.tensor([1.0, -2.0])
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for leaf, exact in zip(mine, slow, strict=True):
        assert leaf.grad is not None
        assert exact.grad is not None
        size = exact.grad.abs().max().item()
        assert size > 0
        assert (leaf.grad.double() - exact.grad).abs().max().item() < 2e-3 * size


def slow_spread(sample: RowSample, query: Tensor, key: Tensor) -> Tensor:
    """-1/2 log(2 pi e v) of the similarities of an image's sampled rows, row by row."""
    scale = query.shape[-1] ** -0.5
    rows = [
        (scale * query[w, h, q] @ key[w, h].T).softmax(0)
        for w in sample.windows.tolist()
        for h in range(query.shape[1])
        for q in sample.queries.tolist()
    ]
    pairs = [(a, b) for i, a in enumerate(rows) for b in rows[i + 1 :]]
    cosines = torch.stack([a @ b / (a.norm() * b.norm()) for a, b in pairs])
    variance = (cosines - cosines.mean()).square().mean()
    return -0.5 * (2 * math.pi * math.e * variance).log()


@pytest.mark.parametrize(("model", "index", "count"), [(VIT, 1, 6), (SWIN, 0, 8), (SWIN, 3, 12)])
def test_spread_of_attention_rows_equals_a_loop(model: Any, index: int, count: int) -> None:
    site = attention_sites(model)[index]
    mine, slow = leaves(operands(model, 1)[index])
    sample = RowSample.draw(site, 13 if count == 12 else count, torch.Generator().manual_seed(3))
    assert len(sample.windows) * site.heads * len(sample.queries) == count
    expected = torch.stack([slow_spread(sample, *pair) for pair in zip(*slow, strict=True)])
    assert_same(sample.loss(*mine), expected, list(mine), list(slow))


def test_sampled_rows_are_those_of_patches_and_vary() -> None:
    (site, _), generator = attention_sites(tiny_vit(reg_tokens=2)), torch.Generator().manual_seed(0)
    drawn = [RowSample.draw(site, 8, generator).queries for _ in range(60)]
    assert {len(set(queries.tolist())) for queries in drawn} == {4}
    assert set(torch.cat(drawn).tolist()) == set(range(3, 19))
    assert len(RowSample.draw(site, 64, generator).queries) == 16
    assert len(RowSample.draw(site, 1, generator).queries) == 1


def slow_difference(site: Any, exact: Operands, rough: Operands, kept: Tensor, share: float, n: int) -> Tensor:
    """Mean |difference| over what is kept of each head's largest logits, entry by entry."""
    terms = []
    for w in range(site.windows):
        for h in range(site.heads):
            rows = []
            for query, key in (exact, rough):
                queries = [0] if site.class_token else range(query.shape[3])
                logits = torch.stack([query[n, w, h, q] @ key[n, w, h, site.prefix :].T for q in queries])
                rows.append(logits.mean(0) / math.sqrt(query.shape[-1]))
            order = sorted(range(16), key=lambda i, row=rows[0]: -row[i].item())  # type: ignore[misc]
            chosen = [i for i in order[: round(16 * share)] if kept[n, w, h, i]]
            terms += [(rows[0][i] - rows[1][i]).abs() for i in chosen]
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("model", "index", "share"), [(VIT, 1, 0.5), (VIT, 0, 0.25), (SWIN, 1, 0.5)])
def test_masked_difference_equals_a_loop(model: Any, index: int, share: float) -> None:
    site = attention_sites(model)[index]
    (exact, slow_exact), (rough, slow_rough) = (leaves(operands(model, seed)[index]) for seed in (1, 2))
    kept = torch.rand((2, site.windows, site.heads, 16), generator=torch.Generator().manual_seed(4)) >= 0.3
    found = masked_difference(site, exact, rough, kept, share)
    expected = [slow_difference(site, slow_exact, slow_rough, kept, share, n) for n in range(2)]
    assert_same(found, torch.stack(expected), [*exact, *rough], [*slow_exact, *slow_rough])


def test_low_precision_of_the_forward_pass_stays_out_of_the_terms() -> None:
    site, pair, other = attention_sites(VIT)[0], operands(VIT, 1)[0], operands(VIT, 2)[0]
    sample = RowSample.draw(site, 8, torch.Generator().manual_seed(0))
    kept = torch.ones((2, 1, 2, 16), dtype=torch.bool)
    exact = sample.loss(*pair), masked_difference(site, pair, other, kept, 0.5), head_dissimilarity(*pair, 1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = sample.loss(*pair), masked_difference(site, pair, other, kept, 0.5), head_dissimilarity(*pair, 1)
    for one, two in zip(exact, rough, strict=True):
        assert torch.equal(one, two)


def test_nothing_kept_is_no_difference() -> None:
    site, pair = attention_sites(VIT)[0], operands(VIT, 1)[0]
    kept = torch.zeros((2, 1, 2, 16), dtype=torch.bool)
    assert masked_difference(site, pair, operands(VIT, 2)[0], kept, 0.5).tolist() == [0.0, 0.0]


def test_the_student_is_the_model_of_minmax_on_the_images_of_the_moment() -> None:
    objective = MaskAQObjective(VIT, CONFIG, context())
    assert objective.student is not None
    for images, step in ((noise(3, seed=5), 2), (noise(3, seed=6), 4)):
        objective.begin(images, step)
        given = QuantizationContext(torch.Generator(), context().space)
        expected = MinMax().quantize(VIT, images, Bits(4, 4), MinMaxConfig(), given)
        with torch.no_grad():
            assert torch.equal(objective.student(noise(2)), expected(noise(2)))
    objective.begin(noise(3, seed=7), 5)
    with torch.no_grad():
        assert torch.equal(objective.student(noise(2)), expected(noise(2)))


def test_terms_are_weighted_and_added_to_mimiqs() -> None:
    def terms(**changes: Any) -> dict[str, Tensor]:
        objective = MaskAQObjective(VIT, dataclasses.replace(CONFIG, **changes), context())
        objective.refresh(noise(3, seed=5))
        return {name: value for group in objective(noise(3), 1) for name, value in group.items()}

    plain = terms()
    heavy = terms(fb_weight=3.0, align_weight=0.5)
    assert set(plain) == {"oh", "ssim", "fb", "align", "tv"}
    assert heavy["fb"].item() == pytest.approx(3 * plain["fb"].item(), rel=1e-5)
    assert heavy["align"].item() == pytest.approx(5 * plain["align"].item(), rel=1e-5)
    assert plain["align"].item() > 0
    bare = terms(fb_weight=0.0, align_weight=0.0)
    assert bare == {name: plain[name] for name in ("oh", "ssim", "tv")}


def test_without_its_terms_one_round_is_mimiq() -> None:
    made = synthesize(rounds=1, fb_weight=0.0, align_weight=0.0)
    plain = MimiQ().synthesize(VIT, MimiQConfig(images=3, iterations=3), context())
    assert torch.equal(made.images, plain.images)


def test_a_round_is_aligned_with_the_student_of_the_images_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(MaskAQObjective, "refresh", lambda self, images: seen.append(images.detach().clone()))
    monkeypatch.setattr(MaskAQConfig, "align_weight", 0.0)
    reports: list[tuple[int, int]] = []
    given = SynthesisContext(HALF, 10, torch.Generator().manual_seed(0), report=lambda *step: reports.append(step))
    config = dataclasses.replace(CONFIG, refresh=10, align_weight=0.0)
    made = MaskAQ().synthesize(VIT, config, given)
    assert len(seen) == 2
    assert torch.equal(seen[1], synthesize(rounds=1, align_weight=0.0, refresh=10).images)
    assert not torch.equal(seen[1], made.images)
    assert reports == [(step, 6) for step in range(1, 7)]
    assert {len(values) for values in made.losses.values()} == {6}


@pytest.mark.parametrize("model", [VIT, SWIN])
def test_the_generator_alone_decides_and_micro_batches_change_nothing(model: Any) -> None:
    torch.manual_seed(1)
    first = synthesize(model, seed=7, learning_rate=0.01)
    torch.manual_seed(2)
    again, parts = synthesize(model, seed=7, learning_rate=0.01), synthesize(model, 7, 2, learning_rate=0.01)
    assert torch.equal(first.images, again.images)
    assert first.losses == again.losses
    for name in ("fb", "align"):
        assert parts.losses[name] == pytest.approx(first.losses[name], rel=1e-2)
    assert (synthesize(model, seed=8).images - first.images).abs().mean().item() > 0.1


def test_defaults_are_the_papers() -> None:
    config = MaskAQ().default_config("deit_t")
    assert (config.iterations, config.rounds, config.fb_weight, config.align_weight) == (2000, 4, 1.0, 0.1)
    assert [config.share(step) for step in (0, 1999)] == pytest.approx([0.5, 0.1])
    assert (config.rows, config.dropped) == (64, 0.3)
    digits = dataclasses.replace(config, **MaskAQ.short)
    assert MaskAQ().image_passes(digits) == pytest.approx(2 * 32 * (2 * 50 + 2 / 3))
    assert MaskAQ().image_passes(dataclasses.replace(digits, align_weight=0.0)) == 2 * 32 * 50


@pytest.mark.parametrize("changes", [{}, {"align_weight": 0.0}, {"iterations": 5, "rounds": 1}])
def test_the_passes_of_a_synthesis_are_those_estimated(changes: dict[str, Any]) -> None:
    model, passes = tiny_vit(), list[float]()

    def count(module: nn.Module, arguments: tuple[Tensor]) -> None:  # the student, a copy of the model, has it too
        passes.append(len(arguments[0]) * (1.0 if torch.is_grad_enabled() else 1 / 3))

    model.register_forward_pre_hook(count)
    synthesize(model, **changes)
    assert sum(passes) == pytest.approx(MaskAQ().image_passes(dataclasses.replace(CONFIG, **changes)))


def test_what_it_cannot_handle_is_refused() -> None:
    with pytest.raises(UsageError, match="Identity is not supported"):
        synthesize(nn.Identity())
    with pytest.raises(UsageError, match="no layer of this model has two"):
        synthesize(tiny_vit(num_heads=1))
    bad: dict[str, Any]
    for bad, message in (
        ({"student": "w32a32"}, "a quantized student"),
        ({"student": "w9a9"}, "out of range"),
        ({"rounds": 0}, "rounds >= 1"),
        ({"narrowest": 0.6}, "narrowest <= widest"),
        ({"align_weight": -1.0}, "its weights >= 0"),
        ({"dropped": 1.0}, "dropped < 1"),
        ({"images": 0}, "images >= 1"),
    ):
        with pytest.raises(UsageError, match=message):
            MaskAQConfig(**bad)
