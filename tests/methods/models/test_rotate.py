"""Turning streams and heads: the function stays, a stream is Q times what it was, what cannot be turned is left."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from test_reparameterize import biasless_vit, gated_vit, padded_swin
from timm.layers import GluMlp
from timm.models.swin_transformer import SwinTransformer
from tiny_models import WIDE, Array, double, noise, randomized, tiny_distilled, tiny_swin, tiny_vit
from torch import Tensor, nn

from methods.backends.best import BestConfig
from methods.backends.blockwise import SEARCH, Blockwise, BlockwiseConfig, _judge
from methods.bits import Bits
from methods.contracts import QuantizationContext
from methods.models.architecture import attention_modules, residual_streams
from methods.models.rotate import Judge, heads_rotated, mean_keeping_rotation, rotated
from methods.quant.quantizers.ranges import CLIPPING_PERCENTILES, PercentileRange
from methods.quant.quantizers.uniform import UniformQuantizer

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


@pytest.mark.parametrize(
    "build", [tiny_vit, lambda: tiny_vit(qk_norm=True), lambda: tiny_vit(qkv_bias=False), tiny_swin]
)
def test_a_model_with_turned_heads_computes_the_same(build: Any) -> None:
    model, images = build(), noise(3)
    turned = heads_rotated(model)
    assert torch.allclose(turned(images), model(images), atol=2e-4)
    normed = not isinstance(getattr(attention_modules(model)[0], "q_norm", nn.Identity()), nn.Identity)
    for before, after in zip(attention_modules(model), attention_modules(turned), strict=True):
        parts = list(zip(before.qkv.weight.chunk(3), after.qkv.weight.chunk(3), strict=True))
        assert [torch.equal(old, new) for old, new in parts] == [normed, normed, False]
        assert not torch.equal(before.proj.weight, after.proj.weight)


def coarse(x: Tensor) -> Tensor:
    """Round to fifths of the largest value: what stands out leaves little to the rest."""
    step = x.abs().max() / 5
    return (x / step).round() * step


def drawn(seed: int, *shape: int) -> Tensor:
    """Return values of which, in every other draw, a channel stands out."""
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed)).double() - 0.5
    x[..., 1] *= 8 if seed % 2 else 1
    return x


def turn_of(heads: int, width: int) -> Tensor:
    blocks = [torch.randn((width, width), generator=torch.Generator().manual_seed(i)).double() for i in range(heads)]
    turn: Tensor = torch.block_diag(*[torch.linalg.qr(block).Q for block in blocks])
    return turn


def matching_error(q: Array, k: Array, heads: int, centred: bool = True) -> float:
    """Squared errors of the products of rounded queries and keys, query by query, without what all keys share."""
    rounded = [double(coarse(torch.from_numpy(x))) for x in (q, k)]
    width, total = q.shape[-1] // heads, 0.0
    for image in range(len(q)):
        for head in range(heads):
            at = slice(head * width, (head + 1) * width)
            for query in range(q.shape[1]):
                found = [float(rounded[0][image, query, at] @ key[at]) for key in rounded[1][image]]
                exact = [float(q[image, query, at] @ key[at]) for key in k[image]]
                errors = np.array(found) - np.array(exact)
                total += float(((errors - centred * errors.mean()) ** 2).sum())
    return total


def test_the_judge_of_a_rotation_compares_products_head_by_head() -> None:
    """Of some of these, whose keys share a part, it would say the opposite if what all keys share counted too."""
    judge, turn, said, plain = Judge(noise(1), coarse, coarse), turn_of(2, 8), list[bool](), list[bool]()
    for seed in range(16):
        q, k = drawn(seed, 2, 5, 16), drawn(seed + 2, 2, 5, 16) + seed // 4
        pairs = [(double(a), double(b)) for a, b in ((q, k), (q @ turn.T, k @ turn.T))]
        errors = [matching_error(*pair, 2) for pair in pairs]
        said.append(judge.helps_matching(q, k, 2, turn))
        assert said[-1] == (errors[1] < errors[0])
        common = [matching_error(*pair, 2, centred=False) for pair in pairs]
        plain.append(common[1] < common[0])
    assert set(said) == {False, True}
    assert said != plain


def output_error(inputs: Array, weight: Array, exact_inputs: Array, exact_weight: Array) -> float:
    """Squared errors of every output of every row."""
    places = [(row, out) for row in range(len(inputs)) for out in range(len(weight))]
    return sum(float(inputs[i] @ weight[o] - exact_inputs[i] @ exact_weight[o]) ** 2 for i, o in places)


def test_the_judge_of_a_rotation_compares_what_a_projection_puts_out() -> None:
    """Of some of these it would say the opposite if weights were not rounded."""
    judge, turn, said, unrounded = Judge(noise(1), coarse, coarse), turn_of(2, 8), list[bool](), list[bool]()
    for seed in range(16):
        x, weight = drawn(seed, 3, 16), drawn(seed // 2, 4, 16)
        exact = double(x), double(weight)
        pairs = (x, weight), (x @ turn.T, weight @ turn.T)
        errors = [output_error(double(coarse(a)), double(coarse(b)), *exact) for a, b in pairs]
        said.append(judge.helps_mixing(x, weight, turn))
        assert said[-1] == (errors[1] < errors[0])
        inputs_alone = [output_error(double(coarse(a)), double(b), *exact) for a, b in pairs]
        unrounded.append(inputs_alone[1] < inputs_alone[0])
    assert set(said) == {False, True}
    assert said != unrounded


def test_heads_turn_where_the_judge_says_so() -> None:
    model, judge = tiny_vit(), Mock()
    judge.images, judge.helps_matching.side_effect, judge.helps_mixing.side_effect = (
        noise(2),
        [True, False],
        [False, True],
    )
    found, everywhere = heads_rotated(model, judge), heads_rotated(model)
    for block, (match, mix) in enumerate(((True, False), (False, True))):
        sources = {True: attention_modules(everywhere)[block], False: attention_modules(model)[block]}
        attention = attention_modules(found)[block]
        queries, keys, values = attention.qkv.weight.chunk(3)
        assert torch.equal(torch.cat([queries, keys]), sources[match].qkv.weight[:32])
        assert torch.equal(values, sources[mix].qkv.weight[32:])
        assert torch.equal(attention.proj.weight, sources[mix].proj.weight)
    seen = judge.helps_mixing.call_args_list[0].args
    assert seen[0].shape == (2, 17, 16)
    assert torch.equal(seen[1], attention_modules(model)[0].proj.weight)
    assert torch.allclose(found(noise(3)), model(noise(3)), atol=2e-4)


@pytest.mark.parametrize("bits", [Bits(32, 32), Bits(3, 3)])
def test_best_measures_with_the_grids_it_will_have(bits: Bits) -> None:
    """Floating point has no error that a turn could lower."""
    model = tiny_vit()
    judge = _judge(noise(20), bits, BestConfig())
    assert len(judge.images) == 16
    x = drawn(1, 40, 16).float()
    for rounded, search, axis in (
        (judge.activation, SEARCH, None),
        (judge.weight, PercentileRange(CLIPPING_PERCENTILES), 0),
    ):
        quantizer = UniformQuantizer(min(bits.weights, 8), search, axis=axis)
        quantizer.fit(x)
        assert torch.equal(rounded(x), quantizer(x) if bits.weights == 3 else x)
    same = torch.equal(heads_rotated(model, judge)(noise(2)), model(noise(2)))
    assert same == (bits.weights == 32)


def test_norms_behind_attention_keep_their_values() -> None:
    model, images = tiny_vit(scale_attn_norm=True), noise(2)
    turned: Any = heads_rotated(model)
    width = model.blocks[0].attn.qkv.out_features // 3
    assert torch.equal(turned.blocks[0].attn.qkv.weight[2 * width :], model.blocks[0].attn.qkv.weight[2 * width :])
    assert torch.allclose(turned(images), model(images), atol=2e-4)
