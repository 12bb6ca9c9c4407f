"""The laws SPDFQ draws from: attention priors and soft labels, against slow loops and what a Gaussian must be."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from spdfq_kit import seeded

from methods.errors import UsageError
from spdfq.priors import PriorLaw, _mahalanobis
from spdfq.soft_labels import SoftLabelLaw, hard_labels


@pytest.mark.parametrize("law", ["gmm", "laplace"])
@pytest.mark.parametrize("combine", ["sum", "max"])
@pytest.mark.parametrize("grid", [(14, 14), (7, 7), (3, 5)])
def test_priors_are_distributions(law: str, combine: str, grid: tuple[int, int]) -> None:
    maps = PriorLaw(law, combine=combine).draw(50, grid, seeded(0))
    assert maps.shape == (50, grid[0] * grid[1])
    assert (maps >= 0).all()
    assert maps.double().sum(1).tolist() == pytest.approx([1.0] * 50, abs=1e-5)
    assert (maps.amax(1) > 1.5 / maps.shape[1]).all()  # peaked, not flat
    assert (maps[1:] != maps[:-1]).any(dim=1).all()  # every map is its own draw


@pytest.mark.parametrize("law", ["gmm", "laplace"])
@pytest.mark.parametrize("combine", ["sum", "max"])
@pytest.mark.parametrize("rotate", [True, False])
def test_draw_equals_a_slow_loop(law: str, combine: str, rotate: bool) -> None:
    maps, parts, rows, columns = 16, 3, 4, 5
    found = PriorLaw(law, parts, combine, 0.1, 0.4, rotate).draw(maps, (rows, columns), seeded(8))
    generator = seeded(8)
    count = torch.randint(1, parts + 1, (maps, 1), generator=generator).flatten().tolist()
    centres = torch.rand((maps, parts, 2), generator=generator).double().tolist()
    widths = torch.rand((maps, parts, 2), generator=generator).double().tolist()
    angles = torch.rand((maps, parts), generator=generator).double().tolist()
    assert set(count) == {1, 2, 3}
    for m in range(maps):
        cells = []
        for i in range(rows):
            for j in range(columns):
                heights = []
                for k in range(count[m]):
                    down = i - centres[m][k][0] * (rows - 1)
                    right = j - centres[m][k][1] * (columns - 1)
                    angle = math.pi * angles[m][k] if rotate else 0.0
                    along = math.cos(angle) * down + math.sin(angle) * right
                    across = math.cos(angle) * right - math.sin(angle) * down
                    first, second = (
                        (0.1 + 0.3 * w) * side for w, side in zip(widths[m][k], (rows, columns), strict=True)
                    )
                    squared = (along / first) ** 2 + (across / second) ** 2
                    heights.append(math.exp(-squared / 2) if law == "gmm" else math.exp(-math.sqrt(2 * squared)))
                cells.append(sum(heights) if combine == "sum" else max(heights))
        assert found[m].tolist() == pytest.approx([cell / sum(cells) for cell in cells], rel=1e-4, abs=1e-9)


def test_single_gaussian_by_hand() -> None:
    """One component, axis along the grid: centre (1, 2), standard deviations 0.5 and 2."""
    squared = _mahalanobis((3, 4), torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.5, 2.0]]]), torch.zeros(1, 1))
    expected = [((i - 1) / 0.5) ** 2 + ((j - 2) / 2) ** 2 for i in range(3) for j in range(4)]
    assert squared.flatten().tolist() == pytest.approx(expected)


def test_quarter_turn_swaps_the_axes() -> None:
    centre, widths = torch.tensor([[[2.0, 2.0]]]), torch.tensor([[[0.5, 2.0]]])
    turned = _mahalanobis((5, 5), centre, widths, torch.full((1, 1), math.pi / 2))
    swapped = _mahalanobis((5, 5), centre, widths.flip(-1), torch.zeros(1, 1))
    assert turned.flatten().tolist() == pytest.approx(swapped.flatten().tolist(), rel=1e-4, abs=1e-4)


def test_log_of_one_upright_gaussian_is_a_parabola_with_widths_in_range() -> None:
    law = PriorLaw(components=1, width_min=0.1, width_max=0.3, rotate=False)
    logs = law.draw(40, (9, 12), seeded(3)).double().log().reshape(40, 9, 12)
    widths = []
    for dimension, side in ((1, 9), (2, 12)):
        curvature = logs.diff(n=2, dim=dimension).flatten(1)
        deviation = (-1 / curvature.median(dim=1).values).sqrt() / side
        assert deviation.min().item() >= 0.099
        assert deviation.max().item() <= 0.301
        widths.append(deviation)
    assert torch.cat(widths).std().item() == pytest.approx(0.2 / math.sqrt(12), rel=0.25)


def test_laplace_differs_from_gmm_and_max_from_sum() -> None:
    draws = {
        (law, combine): PriorLaw(law, 5, combine).draw(20, (7, 7), seeded(1))
        for law in ("gmm", "laplace")
        for combine in ("sum", "max")
    }
    assert (draws["gmm", "sum"] - draws["laplace", "sum"]).abs().amax(1).min().item() > 1e-3
    assert (draws["gmm", "sum"] - draws["gmm", "max"]).abs().max().item() > 1e-3
    single = [PriorLaw(components=1, combine=combine).draw(20, (7, 7), seeded(1)) for combine in ("sum", "max")]
    assert torch.equal(*single)


def test_prior_laws_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match=r"Unknown prior law 'gnm'\. Did you mean 'gmm'\?"):
        PriorLaw("gnm")
    with pytest.raises(UsageError, match="Unknown way to combine components 'mean'"):
        PriorLaw(combine="mean")
    for bad in ({"components": 0}, {"width_min": 0.0}, {"width_min": 0.3, "width_max": 0.2}):
        with pytest.raises(UsageError, match="components >= 1"):
            PriorLaw(**bad)


def test_real_priors_are_not_drawn_and_the_narrowest_are_refused() -> None:
    with pytest.raises(UsageError, match="measured on real images"):
        PriorLaw("real").draw(1, (4, 4), torch.Generator())
    with pytest.raises(UsageError, match=r"0\.02 <= width_min"):
        PriorLaw(width_min=0.001)


RELEVANT = [[3], [0, 7], [9, 1, 4], [5, 2, 8, 6, 0]] * 50


@pytest.mark.parametrize("other", [0.0, 1.0])
def test_labels_are_distributions(other: float) -> None:
    targets = SoftLabelLaw(other=other).draw(RELEVANT, 10, seeded(0)).double()
    assert targets.shape == (200, 10)
    assert (targets > 0).all()
    assert targets.sum(1).tolist() == pytest.approx([1.0] * 200, abs=1e-5)


def test_relevant_logits_are_uniform_between_eps1_and_eps2() -> None:
    """With Z = 0 elsewhere, a ratio of probabilities gives Z at the relevant classes back."""
    targets = SoftLabelLaw(other=0.0).draw(RELEVANT, 10, seeded(0)).double()
    logits = []
    for target, chosen in zip(targets, RELEVANT, strict=True):
        rest = [c for c in range(10) if c not in chosen]
        assert (target[rest] / target[rest[0]]).tolist() == pytest.approx([1.0] * len(rest), rel=1e-6)
        logits += [math.log(target[c] / target[rest[0]]) for c in chosen]
    assert 5 - 1e-4 <= min(logits) < 5.1
    assert 9.9 < max(logits) <= 10 + 1e-4
    assert sum(logits) / len(logits) == pytest.approx(7.5, abs=0.2)
    assert sum(value < 6.25 for value in logits) / len(logits) == pytest.approx(0.25, abs=0.06)


def test_other_logits_are_uniform_between_zero_and_other() -> None:
    targets = SoftLabelLaw(eps1=6.0, eps2=6.0, other=2.0).draw([[3]] * 300, 10, seeded(1)).double()
    rest = [c for c in range(10) if c != 3]
    logits = 6 + (targets[:, rest] / targets[:, [3]]).log()
    assert -1e-4 <= logits.min().item() < 0.02
    assert 1.98 < logits.max().item() <= 2 + 1e-4
    assert logits.mean().item() == pytest.approx(1.0, abs=0.05)


def test_closed_form_without_randomness() -> None:
    target = SoftLabelLaw(eps1=5.0, eps2=5.0, other=0.0).draw([[1, 2]], 4, seeded(0))[0]
    big = math.exp(5) / (2 * math.exp(5) + 2)
    assert target.tolist() == pytest.approx([0.5 - big, big, big, 0.5 - big], rel=1e-4)


def test_labels_come_from_the_generator_alone() -> None:
    law = SoftLabelLaw()
    assert torch.equal(law.draw(RELEVANT, 10, seeded(4)), law.draw(RELEVANT, 10, seeded(4)))
    assert not torch.equal(law.draw(RELEVANT, 10, seeded(4)), law.draw(RELEVANT, 10, seeded(5)))


def test_hard_labels_are_one_hot_at_the_first_class() -> None:
    targets = hard_labels([[2], [0, 3], [3, 1, 0]], 4)
    assert targets.tolist() == [[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    assert targets.dtype == torch.float32


@pytest.mark.parametrize("bad", [{"eps1": 11.0}, {"eps2": 4.0}, {"other": -1.0}])
def test_label_laws_that_cannot_be_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="eps1 <= eps2"):
        SoftLabelLaw(**bad)
