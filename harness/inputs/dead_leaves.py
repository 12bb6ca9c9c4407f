"""Dead leaves: procedural images without labels, on which models are compared with themselves.

Opaque discs with radii from a power law fall on each other until they cover the picture; such images share
scale invariance, edges and occlusion with natural ones (Lee, Mumford & Huang, IJCV 2001). The set is fixed,
belongs to no method and takes part in no synthesis: it is the held-out set of runs without `--data`. A second stream
of such images is what label-free searches look at, so that they and a report never share an image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.inputs.seeds import derived_seed

_SIZE = 224
_DISCS = 400
_RADII = (4.0, 112.0)


def dead_leaves(count: int, size: int = _SIZE, stream: str = "dead leaves") -> NDArray[np.uint8]:
    """Return `count` images uint8 [count, size, size, 3], always the same; other streams give other images."""
    images = [_image(np.random.default_rng(derived_seed(index, stream)), size) for index in range(count)]
    return np.stack(images)


def _image(random: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Paint discs back to front; radii have density proportional to r^-3 between `_RADII`."""
    smallest, largest = _RADII
    draw = random.random(_DISCS)
    radii = (smallest**-2 - draw * (smallest**-2 - largest**-2)) ** -0.5
    centres = random.random((_DISCS, 2)) * size
    colours = random.integers(0, 256, (_DISCS, 3), dtype=np.uint8)
    image = np.broadcast_to(random.integers(0, 256, 3, dtype=np.uint8), (size, size, 3)).copy()
    for (y, x), radius, colour in zip(centres, radii, colours, strict=True):
        top, left = max(0, int(y - radius)), max(0, int(x - radius))
        rows, columns = np.ogrid[top : int(y + radius) + 2, left : int(x + radius) + 2]
        patch = image[top : int(y + radius) + 2, left : int(x + radius) + 2]
        inside = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        patch[inside[: patch.shape[0], : patch.shape[1]]] = colour
    return image
