"""Quantized models as safetensors: the same module comes back, and damaged or foreign files are sentences."""

from __future__ import annotations

import io
import json
import pickle
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from tiny_models import tiny_swin, tiny_vit
from torch import Tensor, nn

from harness.deploy.safetensors_file import decoded, encoded, pack, unpack
from harness.record.cache import checksum
from methods import BACKENDS
from methods.bits import Bits
from methods.contracts import ImageSpace, QuantizationContext
from methods.errors import UsageError

MODELS: dict[str, Any] = {"vit": tiny_vit, "swin": tiny_swin}

SPACE = ImageSpace(16, 16, (0.5,) * 3, (0.5,) * 3)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def quantized(model: nn.Module, backend: str, bits: Bits, **settings: Any) -> nn.Module:
    quantizer = BACKENDS.get(backend)
    config = quantizer.config_class(**settings)
    return quantizer.quantize(
        model, images(), bits, config, QuantizationContext(torch.Generator().manual_seed(0), SPACE)
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bits", ["w4a4", "w3a6", "w8a8", "w4a32", "w32a8", "w32a32"])
@pytest.mark.parametrize(
    ("backend", "settings"),
    [
        ("minmax", {}),
        ("minmax", {"protocol": "psaq_vit"}),
        ("repq", {}),
        ("best", {"iterations": 1, "views": 1}),
    ],
)
def test_the_same_module_comes_back(name: str, bits: str, backend: str, settings: dict[str, Any]) -> None:
    model = MODELS[name]()
    first = quantized(model, backend, Bits.parse(bits), **settings)
    again = decoded(encoded(first, {}), "file", MODELS[name](seed=3))
    assert torch.equal(again(images()), first(images()))


def test_bits_per_layer_come_back() -> None:
    bits = Bits(4, 4, (("blocks.0.*", Bits(8, 8)), ("head", Bits(32, 32))), "mixed")
    first = quantized(tiny_vit(), "minmax", bits)
    assert torch.equal(decoded(encoded(first, {}), "file", tiny_vit())(images()), first(images()))


def test_a_layer_without_a_quantized_input_comes_back() -> None:
    first = quantized(tiny_vit(), "mimiq_qat", Bits(4, 4), epochs=1)
    assert torch.equal(decoded(encoded(first, {}), "file", tiny_vit())(images()), first(images()))


@pytest.mark.parametrize(("codes", "stored"), [(range(-8, 8), [0x75, 0x0A]), (range(16), [0xFD, 0x02])])
def test_four_bit_codes_share_a_byte(codes: range, stored: list[int]) -> None:
    values = torch.tensor([[-3, -1, 2]] if codes[0] else [[13, 15, 2]], dtype=torch.int32)
    packed = pack(values, codes)
    assert packed.tolist() == stored
    assert torch.equal(unpack(packed, codes, [1, 3]), values)


def test_eight_bit_codes_take_a_byte_each() -> None:
    values = torch.tensor([-128, 0, 127], dtype=torch.int32)
    assert pack(values, range(-128, 128)).tolist() == [0, 128, 255]
    with pytest.raises(ValueError, match="3 codes are stored where 4 belong"):
        unpack(pack(values, range(-128, 128)), range(-128, 128), [2, 2])


def changed(content: bytes, **header: str) -> bytes:
    """Return a file with other metadata."""
    length = int.from_bytes(content[:8], "little")
    return save(load(content), json.loads(content[8 : 8 + length])["__metadata__"] | header)


def test_damaged_and_foreign_files_are_sentences() -> None:
    sound = encoded(quantized(tiny_vit(), "minmax", Bits(8, 8)), {})
    flipped = bytearray(sound)
    flipped[-1] ^= 1
    for content, said in (
        (b"", "is damaged or no safetensors file"),
        (sound[:-7], "is damaged or no safetensors file"),
        (bytes(flipped), "its checksum does not fit"),
        (changed(sound, model="{}"), "its checksum does not fit"),
        (save({"a": torch.zeros(1)}), "is not a quantized model of this project"),
        (changed(sound, version="2"), "is of format version 2; this release reads 1"),
    ):
        with pytest.raises(UsageError) as caught:
            decoded(content, "model.safetensors", tiny_vit())
        assert str(caught.value).startswith("model.safetensors")
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


class Trap:
    """Says so when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return pytest.fail, ("unpickled",)


def test_pickles_are_foreign_and_stay_closed() -> None:
    stream = io.BytesIO()
    torch.save(Trap(), stream)
    for content in (pickle.dumps(Trap()), stream.getvalue()):
        with pytest.raises(UsageError, match=r"^model is damaged or no safetensors file"):
            decoded(content, "model", tiny_vit())


@pytest.mark.parametrize("text", ["{}", "[]", "nothing", '{"architecture": {"name": "vit_digits"}}'])
def test_sealed_nonsense_is_a_sentence(text: str) -> None:
    sound = encoded(quantized(tiny_vit(), "minmax", Bits(8, 8)), {})
    content = changed(sound, model=text, sha256=checksum(load(sound), text))
    for model in (None, tiny_vit()):
        with pytest.raises(UsageError, match=r"^model (does not fit|is damaged)"):
            decoded(content, "model", model)


def test_another_architecture_is_a_sentence() -> None:
    sound = encoded(quantized(tiny_vit(), "minmax", Bits(8, 8)), {})
    with pytest.raises(UsageError, match="does not fit its architecture"):
        decoded(sound, "model.safetensors", tiny_swin())
    with pytest.raises(UsageError, match="give the plain model"):
        decoded(sound, "model.safetensors")


def test_weights_off_their_grid_are_refused() -> None:
    model: Any = quantized(tiny_vit(), "minmax", Bits(8, 8))
    model.head.layer.weight.add_(1e-3)
    with pytest.raises(UsageError, match="head is not on the grid"):
        encoded(model, {})
