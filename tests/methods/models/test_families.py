"""Every family of stock models: quantized where a record says so, seen from outside; synthesis, units, equal function.

What multiplies is watched below all of torch's functions (`TorchDispatchMode`), which knows nothing of how quantizers
were placed. Models have random weights. The smallest member of every family runs with `-m slow`; the table of
`docs/models.md` is made of what such a run finds:

    pytest tests/methods/models/test_families.py -m 'slow or not slow' --junitxml families.xml
    PYTHONPATH=. python tests/methods/models/family_kit.py docs/models.md families.xml

The whole takes hours; with `-k '[volo_d1_224'` it is one model, whose row is filled in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import onnx
import pytest
import torch
from family_kit import SMALLEST, calls, images_of, model_of, space_of
from torch import Tensor, nn

import spdfq  # noqa: F401 - registers its method
from harness.deploy.onnx_file import encoded
from harness.deploy.program import quantized_program
from methods.bits import Bits
from methods.contracts import QuantizationContext, SynthesisContext
from methods.errors import UsageError
from methods.models.architecture import attention_sites, reconstruction_units
from methods.models.attention import attention_maps
from methods.models.family import families, family_of
from methods.models.rest import Rest
from methods.models.trace import image_shape, trace
from methods.quant.calibrate import calibrate, observing
from methods.quant.insert import fold_weights, insert_quantizers, weights_in_floating_point
from methods.quant.learning.reconstruct import unit_outputs
from methods.quant.operations import describe
from methods.quant.recipe import MIN_MAX
from methods.quant.runtimes import onnx_runtime
from methods.registry import BACKENDS, METHODS

QUICK = ("test_vit", "shvit_s1", "efficientvit_m0", "levit_128s", "xcit_nano_12_p16_224", "edgenext_xx_small")
SLOW = [name for name in SMALLEST.values() if name not in QUICK]
EVERY = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
LEARNED = ("test_vit", "edgenext_xx_small")
EVERY_BEST = [pytest.param(name, marks=() if name in LEARNED else pytest.mark.slow) for name in SMALLEST.values()]
ACROSS_A_BATCH = ("csatv2",)
"""timm's spatial attention multiplies the images of a batch with each other: products grow with its square."""
TOO_FLAT = {"convit_tiny": 0.95}
"""An untrained ConViT's map of attention has a peak of 0.57 over a flat rest of 0.0014, under a step of 0.57 / 255:
a uniform grid cannot hold both, a logarithmic one does."""
SEVERAL_PATHS = ("crossvit_9_240",)
"""No unit of theirs decides alone what the features are."""
ENOUGH = 0.99
"""Share of the multiply-accumulates that depend on the image that must be of integers."""
Note: TypeAlias = Callable[[str, object], None]


def quantized(model: nn.Module, images: Tensor, bits: str) -> nn.Module:
    result = insert_quantizers(model, Bits.parse(bits), MIN_MAX, space_of(model))
    calibrate(result, images)
    fold_weights(result)
    return result


def test_every_family_has_its_smallest_member() -> None:
    assert set(SMALLEST) == set(families())


@pytest.mark.parametrize("name", EVERY)
def test_all_is_integer_but_what_the_record_leaves(name: str, record_property: Note) -> None:
    model = model_of(name)
    images = images_of(model, 1 if name in ACROSS_A_BATCH else 4)
    seen = trace(model)
    found = calls(quantized(model, images, "w4a4"), images, 4)
    left = sum(sum(product.macs) for product in seen.products if product.left)
    constant = sum(sum(product.macs) for product in seen.products if not product.varies)
    total = sum(sum(product.macs) for product in seen.products)
    record_property("integer", f"{100 * found.integer / found.all:.2f}%")
    missed = len(images) * total - found.all  # by the dry run: nothing, but what is the same for all may be made once
    assert 0 <= missed <= (len(images) - 1) * constant
    assert found.integer >= found.all - len(images) * left
    assert found.integer >= ENOUGH * (found.all - (len(images) * constant - missed))
    assert calls(model_unfused(model), images, 4).integer / found.all < 0.01  # the watch tells floats from integers


def model_unfused(model: Any) -> Any:
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return model


@pytest.mark.parametrize("name", EVERY)
def test_the_function_is_timms_before_quantization(name: str) -> None:
    model = model_of(name)
    images = images_of(model, 1)
    watched = insert_quantizers(model, Bits.parse("w8a8"), MIN_MAX, space_of(model))
    with torch.no_grad(), weights_in_floating_point(watched), observing(watched):
        found = watched(images)
        expected = model(images)
    assert (found - expected).norm() <= 1e-4 * expected.norm()
    assert {str(row["operation"]) for row in describe(watched)} >= {f"{n} weight" for n in layers_of(model)}


def layers_of(model: nn.Module) -> set[str]:
    return {product.layer for product in trace(model).products if product.layer and not product.left}


def made_by(model: nn.Module, images: Tensor, backend: str, bits: str, **settings: Any) -> nn.Module:
    """Return a model quantized on images with few settings but those of the backend itself."""
    chosen = BACKENDS.get(backend)
    config = type(chosen.default_config("vit_b"))(**settings)
    context = QuantizationContext(torch.Generator().manual_seed(0), space_of(model))
    return chosen.quantize(model, images, Bits.parse(bits), config, context)


def cosine(model: nn.Module, backend: str, bits: str, **settings: Any) -> float:
    """Return the cosine between the logits of a model and of the quantized one, the mean over four images."""
    images = images_of(model, 4)
    with torch.no_grad():
        network = made_by(model, images, backend, bits, **settings)
        return alike(network(images), model(images))


def alike(found: Tensor, wanted: Tensor) -> float:
    """Return the mean cosine of logits [n, classes]."""
    return float(nn.functional.cosine_similarity(found, wanted).mean())


@pytest.mark.parametrize("name", EVERY)
def test_eight_bits_keep_the_direction_of_the_logits(name: str, record_property: Note) -> None:
    model = model_of(name)
    eight, four = (cosine(model, "minmax", bits) for bits in ("w8a8", "w4a4"))
    record_property("minmax w8a8", f"{eight:.4f}")
    record_property("minmax w4a4", f"{four:.4f}")
    assert eight >= TOO_FLAT.get(name, 0.98)
    assert abs(four) <= 1 + 1e-5  # a number


@pytest.mark.parametrize("name", EVERY_BEST)
def test_learning_keeps_the_direction_of_the_logits(name: str, record_property: Note) -> None:
    found = learned(name, "w8a8")
    record_property("best w8a8", f"{found:.4f}")
    assert found >= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST.values())
def test_learning_gives_numbers_at_four_bits(name: str, record_property: Note) -> None:
    found = learned(name, "w4a4")
    record_property("best w4a4", f"{found:.4f}")
    assert abs(found) <= 1 + 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST.values())
def test_the_file_answers_as_the_simulation_does(name: str, record_property: Note) -> None:
    """The ONNX file at W8A8 passes ONNX's checker and shape inference, and ONNX Runtime gives the simulated logits but
    for ties of rounding, which later quantizers make larger; or the family is refused by a sentence."""
    model = model_of(name)
    images = images_of(model, 4)
    network = made_by(model, images, "minmax", "w8a8")
    try:
        content = encoded(quantized_program(network, images[:1]), {})
    except UsageError as error:
        record_property("file w8a8", f"refused: {error}")
        return
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    with torch.no_grad():
        found = alike(torch.from_numpy(onnx_runtime(content, 1)(images.numpy())), network(images))
    record_property("file w8a8", f"{found:.4f}")
    assert found >= TOO_FLAT.get(name, 0.98)


def learned(name: str, bits: str) -> float:
    """The cosine after a step of learning: Adam's first has one size whatever the gradient, and untrained weights,
    small as they are, bear but a tiny one."""
    return cosine(model_of(name), "best", bits, iterations=1, views=0, learning_rate=1e-8)


@pytest.mark.parametrize("name", EVERY)
def test_maps_are_distributions_and_units_hold_every_layer(name: str) -> None:
    model = model_of(name)
    units = [unit for unit, _ in reconstruction_units(model)]
    covered = {layer for layer in layers_of(model) if any(f"{layer}.".startswith(f"{unit}.") for unit in units)}
    of_one_place = {layer for layer, _ in model.named_modules()}  # CoaT's convolutions stand in several blocks at once
    assert len((layers_of(model) & of_one_place) - covered) <= 0.1 * len(layers_of(model))
    try:
        sites = attention_sites(model)
    except UsageError as error:
        assert str(error).endswith(".")
        assert family_of(model).name in str(error)
        return
    images = images_of(model, 2)
    with torch.no_grad(), attention_maps(sites, 2) as maps:
        model(images)
    assert len(maps) == len(sites)
    for site, found in zip(sites, maps, strict=True):
        assert found.shape == (2, site.windows, site.heads, site.grid[0] * site.grid[1])
        total = found.sum(dim=-1)
        assert (found >= 0).all()
        assert (total <= 1 + 1e-4).all()
        assert site.prefix > 0 or (total - 1).abs().max() < 1e-4


@pytest.mark.parametrize("name", EVERY)
def test_the_rest_leads_units_to_the_features_of_the_network(name: str) -> None:
    model = model_of(name)
    images = images_of(model, 2)
    outputs, rest = unit_outputs(model, images), Rest(model, images[:1])
    with torch.no_grad():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        found = {unit: rest.features(output) for unit, output in outputs.items() if rest.move_behind(unit)}
    assert bool(found) != (name in SEVERAL_PATHS)
    for unit, led in found.items():
        assert (led - features).norm() <= 1e-4 * features.norm(), unit


@pytest.mark.parametrize("method", ["noise", "psaq_vit", "spdfq"])
@pytest.mark.parametrize("name", EVERY)
def test_synthesis_works_or_is_refused_beforehand(name: str, method: str) -> None:
    model = model_of(name)
    channels, height, width = image_shape(model)
    maker: Any = METHODS.get(method)
    settings = {"images": 2} | ({} if method == "noise" else {"iterations": 2})
    config = type(maker.default_config("vit_b"))(**settings)
    try:
        maker.check(model, config)
    except UsageError as error:
        assert str(error).endswith(".")
        return
    classes = model.num_classes
    made = maker.synthesize(
        model, config, SynthesisContext(space_of(model), classes, torch.Generator().manual_seed(0))
    )
    assert made.images.shape == (2, channels, height, width)
    assert made.images.isfinite().all()
