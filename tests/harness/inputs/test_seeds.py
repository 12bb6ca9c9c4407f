"""Seeds: stable values, one stream per purpose."""

from __future__ import annotations

import pytest
import torch

from harness.inputs.seeds import derived_seed, generator


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
