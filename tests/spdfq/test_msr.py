"""MSR: where regions lie, what a crop is, and where its gradient goes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spdfq_kit import noise, seeded
from torch.nn import functional

from methods.errors import UsageError
from spdfq.msr import Region, RegionLaw, crops

REGIONS = [Region(0, 2, 3, 5), Region(0, 9, 8, 7), Region(2, 0, 0, 16), Region(1, 15, 15, 1)]


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    st.integers(0, 2**31),
    st.integers(1, 4),
    st.floats(0.05, 0.3),
    st.floats(0, 0.2),
    st.integers(8, 64),
    st.integers(8, 64),
)
def test_regions_are_disjoint_and_inside(
    seed: int, most: int, smallest: float, span: float, height: int, width: int
) -> None:
    regions = RegionLaw(most, smallest, smallest + span).draw(3, height, width, seeded(seed))
    assert {r.image for r in regions} == {0, 1, 2}
    assert [r.image for r in regions] == sorted(r.image for r in regions)
    painted = torch.zeros((3, height, width), dtype=torch.int64)
    for r in regions:
        assert min(r.top, r.left) >= 0
        assert r.top + r.side <= height
        assert r.left + r.side <= width
        assert round(smallest * min(height, width)) <= r.side <= max(1, round((smallest + span) * min(height, width)))
        assert r.side >= 1
        painted[r.image, r.top : r.top + r.side, r.left : r.left + r.side] += 1
    assert painted.max().item() == 1
    assert painted.sum().item() == sum(r.side**2 for r in regions)


def test_one_to_k_regions_each_as_often() -> None:
    regions = RegionLaw(4, 0.1, 0.3).draw(800, 32, 32, seeded(0))
    counts = Counter(Counter(r.image for r in regions).values())
    assert set(counts) == {1, 2, 3, 4}
    assert len({r.image for r in regions}) == 800
    assert all(150 < times < 250 for times in counts.values())


def test_sides_cover_their_range() -> None:
    sides = {r.side for r in RegionLaw(1, 0.25, 0.5).draw(300, 32, 32, seeded(0))}
    assert sides == set(range(8, 17))


def test_positions_reach_every_edge() -> None:
    regions = RegionLaw(1, 0.5, 0.5).draw(300, 8, 12, seeded(0))
    assert {r.top for r in regions} == set(range(5))
    assert {r.left for r in regions} == set(range(9))


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        (Region(0, 0, 0, 4), Region(0, 3, 3, 4), True),
        (Region(0, 0, 0, 4), Region(0, 4, 0, 4), False),
        (Region(0, 0, 0, 4), Region(0, 0, 4, 4), False),
        (Region(0, 0, 0, 8), Region(0, 2, 2, 1), True),
        (Region(0, 5, 0, 2), Region(0, 0, 0, 5), False),
        (Region(0, 0, 5, 2), Region(0, 0, 0, 5), False),
    ],
)
def test_overlap_by_hand(first: Region, second: Region, overlap: bool) -> None:
    assert first.overlaps(second) is overlap
    assert second.overlaps(first) is overlap


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_crops_equal_the_resized_slices(interpolation: str) -> None:
    images = noise(3)
    found = crops(images, REGIONS, interpolation)
    assert found.shape == (4, 3, 16, 16)
    for region, crop in zip(REGIONS, found, strict=True):
        rows, columns = slice(region.top, region.top + region.side), slice(region.left, region.left + region.side)
        expected = functional.interpolate(images[region.image, :, rows, columns][None], (16, 16), mode=interpolation)
        assert torch.equal(crop, expected[0])
    assert torch.equal(found[2], images[2])
    assert torch.allclose(found[3], images[1, :, 15:, 15:].expand(3, 16, 16), atol=1e-6)


def test_bilinear_crop_equals_a_slow_loop() -> None:
    images, region = noise(1), REGIONS[0]
    crop = crops(images, [region])[0]
    part = images[0, :, 2:7, 3:8].double()
    for i in range(16):
        for j in range(16):
            y, x = (max(0.0, (k + 0.5) * 5 / 16 - 0.5) for k in (i, j))
            top, left = int(y), int(x)
            below, right = min(top + 1, 4), min(left + 1, 4)
            upper = part[:, top, left] * (1 - x + left) + part[:, top, right] * (x - left)
            lower = part[:, below, left] * (1 - x + left) + part[:, below, right] * (x - left)
            expected = upper * (1 - y + top) + lower * (y - top)
            assert crop[:, i, j].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_no_regions_give_no_crops() -> None:
    assert crops(noise(2), []).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("index", [0, 1, 3])
def test_gradient_of_a_crop_is_zero_outside_its_region(index: int, interpolation: str) -> None:
    images = noise(3).requires_grad_(True)
    region = REGIONS[index]
    crops(images, REGIONS, interpolation)[index].square().sum().backward()
    assert images.grad is not None
    inside = torch.zeros_like(images, dtype=torch.bool)
    inside[region.image, :, region.top : region.top + region.side, region.left : region.left + region.side] = True
    assert (images.grad[~inside] == 0).all()
    assert (images.grad[inside] != 0).all()


@pytest.mark.parametrize(
    ("most", "low", "high"),
    [(0, 0.1, 0.2), (1, 0.0, 0.2), (1, 0.3, 0.2), (1, 0.5, 1.1), (5, 0.5, 0.5), (2, 0.8, 0.9), (3, 0.55, 0.57)],
)
def test_laws_that_cannot_be_are_refused(most: int, low: float, high: float) -> None:
    with pytest.raises(UsageError, match=r"Regions need most >= 1|cannot be disjoint in one image"):
        RegionLaw(most, low, high)


def test_squares_that_find_no_place_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spdfq.msr._TRIES", 20)
    with pytest.raises(UsageError, match="Found no 4 disjoint regions of side 8 to 8 px in 16x16 px"):
        RegionLaw(4, 0.5, 0.5).place(0, 4, 16, 16, seeded(0))
