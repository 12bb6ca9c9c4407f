"""Per-image correctness as text: base64 of packed bits, the first image in the highest bit."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def pack(correct: Sequence[bool] | NDArray[np.bool_]) -> str:
    """Return the text of which images were right, [n]."""
    import numpy as np

    return base64.b64encode(np.packbits(np.asarray(correct, dtype=bool)).tobytes()).decode()


def unpack(text: str, count: int) -> NDArray[np.int8]:
    """Return 0 or 1 per image, int8 [count]; raises ValueError when the text is not that of so many images."""
    import numpy as np

    return np.unpackbits(np.frombuffer(_octets(text, count), dtype=np.uint8), count=count).view(np.int8)


def hits(text: str, count: int) -> int:
    """Return how many images were right; raises ValueError when the text is not that of so many images."""
    return int.from_bytes(_octets(text, count)).bit_count()


def _octets(text: str, count: int) -> bytes:
    octets = base64.b64decode(text, validate=True)
    if len(octets) != -(-count // 8) or (octets and octets[-1] & (1 << -count % 8) - 1):
        raise ValueError(f"holds the correctness of another number of images than {count}")
    return octets
