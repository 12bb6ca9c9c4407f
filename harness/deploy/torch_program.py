"""The torch format: a program that torch.export.load reads in a process without this package.

Its quantize and dequantize operations are torch's own; a process that runs it imports them first:
`from torch.ao.quantization.fx import _decomposed`.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def encoded(program: ExportedProgram, about: dict[str, str]) -> bytes:
    """Return the file of a program, with what is to be known of it among its extra files."""
    import torch

    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={f"{name}.json": text for name, text in about.items()})
    return stream.getvalue()
