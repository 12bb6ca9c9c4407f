"""Mixed precision: `--bits` takes a TOML file that gives layers bits of their own.

    default = "w4a4"
    [layers]
    "*.attn" = "w8a8"
    "blocks.0.*" = "w8a8"
    head = "w8a4"

Names are those of the model's layers, patterns are globs in which `*` takes dots as well; where several fit, the last
one counts. A layer's bits are those of its weight and its input; those of an attention module (`blocks.0.attn`) are
the activation bits of query, key, value and softmax output. In cells and tables such bits are called by the default,
the file's name and the start of a checksum over default and patterns.
"""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from harness.record.files import read_toml, user_path
from harness.record.record import LayerBits
from methods.bits import Bits
from methods.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from torch import nn


def read_bits(word: str) -> Bits:
    """Return the bits a word of `--bits` stands for, `w4a4` or the path of a TOML file.

    Raises UsageError for other words, an unreadable file, and a file that is not of the form above.
    """
    if not word.endswith(".toml"):
        return Bits.parse(word)
    path = user_path(word)
    table = read_toml(path, "bits file")
    for key in table:
        if key not in ("default", "layers"):
            raise unknown_name(f"key of the bits file {word}", key, ("default", "layers"))
    default, layers = table.get("default"), table.get("layers", {})
    if not isinstance(default, str) or not isinstance(layers, dict):
        raise UsageError(f'{word} needs default = "w4a4", and a table [layers] of names and bits.')
    base = Bits.parse(default)
    own = tuple((pattern, _bits(word, pattern, text)) for pattern, text in layers.items())
    return Bits(base.weights, base.activations, own, path.stem, base.number_format)


def _bits(word: str, pattern: str, text: Any) -> Bits:
    if not isinstance(text, str):
        raise UsageError(f'{word} gives {pattern!r} no bits; write "layer.name" = "w8a8", names with dots in quotes.')
    return Bits.parse(text)


def check_layers(bits: Bits, model: str, network: nn.Module) -> None:
    """Raise UsageError, naming the nearest layer, when a pattern fits no layer of a model or decides none's bits."""
    from methods.models.architecture import layer_names

    names = layer_names(network)
    fitting = {name: [pattern for pattern, _ in bits.layers if fnmatchcase(name, pattern)] for name in names}
    for pattern, _ in bits.layers:
        if not any(pattern in found for found in fitting.values()):
            [near] = difflib.get_close_matches(pattern, names, n=1, cutoff=0)
            raise UsageError(f"No layer of {model} fits {pattern!r} in {bits.name}.toml. Did you mean {near!r}?")
        if not any(found[-1:] == [pattern] for found in fitting.values()):
            raise UsageError(f"{pattern!r} in {bits.name}.toml decides nothing on {model}: later patterns do.")


def recorded_bits(bits: Bits, network: nn.Module) -> LayerBits:
    """Return what a record holds of mixed precision: default, patterns, and the bits of every layer they lead to."""
    from methods.models.architecture import layer_names

    return LayerBits(bits.default, bits.layers, {name: bits.of(name) for name in layer_names(network)})
