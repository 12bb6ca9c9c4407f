"""The safetensors format: a quantized model that `load` turns into the same module again, bit for bit.

Tensors: the codes of every quantized weight (`<layer>.codes`, packed), the numbers of all quantizers and whatever else
the module's state holds. The header's JSON says how to build the plain model, where its quantizers are and what they
are; a checksum covers header and tensors. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.inputs.model_info import classes_of, told
from harness.inputs.zoo import ENTRIES
from harness.record.cache import checksum
from methods.bits import Bits
from methods.errors import UsageError
from methods.quant.insert import quantized_layers
from methods.quant.placement import Placed, place, placed, placement
from methods.quant.quantizers import stored

FORMAT, VERSION = "spdfq-bench quantized model", 1
_NIBBLE = 16


@dataclass(frozen=True)
class Architecture:
    """name: timm's, or an embedded model's; empty for a model nobody can build by name. classes: of its head."""

    name: str
    classes: int


def architecture_of(model: nn.Module) -> Architecture:
    """Return what a model says of itself (timm's `pretrained_cfg`)."""
    return Architecture(str(told(model).get("architecture") or ""), classes_of(model))


def build(architecture: Architecture) -> nn.Module:
    """Return the model without its weights, frozen, in eval mode; raises UsageError for a name nobody knows."""
    import timm

    embedded = [entry for entry in ENTRIES.values() if entry.build and entry.name == architecture.name]
    if embedded and embedded[0].build:
        model = embedded[0].build()
    elif timm.is_model(architecture.name):
        model = timm.create_model(architecture.name, num_classes=architecture.classes)
    else:
        raise UsageError(
            f"The architecture {architecture.name!r} is not one timm can build; give the plain model as well."
        )
    return model.eval().requires_grad_(False)


def encoded(model: nn.Module, about: dict[str, str], architecture: Architecture | None = None) -> bytes:
    """Return the file of a quantized model; about: what else is to be known of it.

    architecture: how to build the plain model, what it says of itself if None. Raises UsageError for a model with a
    quantizer that cannot be stored or weights that are not on their grid.
    """
    from safetensors.torch import save

    quantizers = placed(model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    shapes = {}
    for name, layer in quantized_layers(model):
        if layer.weights is not None:
            weight = tensors.pop(f"{name}.layer.weight")
            shapes[name] = list(weight.shape)
            tensors[f"{name}.codes"] = _codes(name, layer.weights, weight)
    places, bits = placement(model)
    header = {
        "architecture": asdict(architecture or architecture_of(model)),
        "places": places,
        "bits": {"default": bits.default, "layers": bits.layers, "name": bits.name},
        "quantizers": {name: _settings(name, quantizer) for name, quantizer in quantizers.items()},
        "weights": shapes,
        "about": about,
    }
    text = json.dumps(header)
    return save(tensors, {"format": FORMAT, "version": str(VERSION), "model": text, "sha256": checksum(tensors, text)})


def _settings(name: str, quantizer: Any) -> dict[str, Any]:
    try:
        return stored.settings(quantizer)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from error


def _codes(name: str, quantizer: Any, weight: Tensor) -> Tensor:
    """Return the packed codes of a weight; raises UsageError when they are not all of it."""
    codes = quantizer.cpu().quantize(weight)
    if not torch.equal(quantizer.dequantize(codes), weight):
        raise UsageError(f"The weight of {name} is not on the grid of its quantizer; this model cannot be stored.")
    return pack(codes, quantizer.codes)


def decoded(content: bytes, source: str, model: nn.Module | None = None) -> nn.Module:
    """Return the quantized model of a file; model: the plain one, for architectures that no name builds.

    source: what to call the file. Raises UsageError for a file that is damaged, foreign or of a newer version.
    """
    header, tensors = _read(content, source)
    try:
        plain = build(Architecture(**header["architecture"])) if model is None else model
        return _filled(plain, header, tensors)
    except UsageError:
        raise
    except (KeyError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        raise UsageError(f"{source} does not fit its architecture ({type(error).__name__}: {error}).") from error


def _read(content: bytes, source: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return header and tensors of a sound file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        known = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except (SafetensorError, ValueError) as error:
        raise UsageError(f"{source} is damaged or no safetensors file ({error}).") from error
    if known.get("format") != FORMAT:
        raise UsageError(f"{source} is not a quantized model of this project.")
    if known.get("version") != str(VERSION):
        raise UsageError(f"{source} is of format version {known.get('version')}; this release reads {VERSION}.")
    if known.get("sha256") != checksum(tensors, known.get("model", "")):
        raise UsageError(f"{source} is damaged: its checksum does not fit.")
    try:
        return json.loads(known["model"]), tensors
    except ValueError as error:
        raise UsageError(f"{source} is damaged: what it says of its model is no JSON ({error}).") from error


def _filled(plain: nn.Module, header: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """Return the model with its quantizers and all its numbers."""
    bits = header["bits"]
    layers = tuple((pattern, Bits.parse(text)) for pattern, text in bits["layers"])
    default = Bits.parse(bits["default"])
    widths = Bits(default.weights, default.activations, layers, bits["name"], default.number_format)
    quantizers: Placed = {}
    for name, settings in header["quantizers"].items():
        numbers = {key.rpartition(".")[2]: t for key, t in tensors.items() if key.rpartition(".")[0] == name}
        quantizers[name] = stored.restored(settings, numbers)
    quantized = place(plain, header["places"], widths, quantizers).eval()
    for name, layer in quantized_layers(quantized):
        if layer.weights is not None:
            codes = unpack(tensors.pop(f"{name}.codes"), layer.weights.codes, header["weights"][name])
            tensors[f"{name}.layer.weight"] = layer.weights.dequantize(codes)
    _add_biases(quantized, tensors)
    quantized.load_state_dict(tensors, strict=True)
    return quantized.requires_grad_(False)


def _add_biases(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give a layer that has got a bias in quantization a place for it."""
    for name, layer in quantized_layers(model):
        bias = tensors.get(f"{name}.layer.bias")
        if layer.layer.bias is None and bias is not None:
            layer.layer.bias = torch.nn.Parameter(torch.empty_like(bias))


def pack(codes: Tensor, grid: range) -> Tensor:
    """Return int32 codes of a grid as uint8 bytes [n]; with at most 16 codes the even places are the low halves."""
    flat = (codes.flatten() - grid[0]).to(torch.uint8)
    if len(grid) > _NIBBLE:
        return flat
    flat = torch.nn.functional.pad(flat, (0, len(flat) % 2))
    return flat[::2] | flat[1::2] << 4


def unpack(octets: Tensor, grid: range, shape: list[int]) -> Tensor:
    """Return the int32 codes [*shape] of packed bytes; raises ValueError when these are of another number."""
    count = math.prod(shape)
    if len(grid) <= _NIBBLE:
        octets = torch.stack([octets & (_NIBBLE - 1), octets >> 4], dim=1).flatten()[: count + count % 2]
        octets = octets[:count]
    if len(octets) != count:
        raise ValueError(f"{len(octets)} codes are stored where {count} belong.")
    return octets.to(torch.int32).reshape(shape) + grid[0]
