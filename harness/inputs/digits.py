"""The embedded default: scikit-learn's handwritten digits and two small timm models trained on them.

Everything the main job needs travels with the package, so `python -m harness.bench` runs without a
network and without a data set. The weights beside this file in `embedded/` are made by
`python -m harness.train_digits`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

IMAGE_SIZE = 32
VALIDATION = 500
_SPLIT_SEED = 0
EMBEDDED = Path(__file__).parent / "embedded"


def digits_split(train: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return one side of the fixed split of the 1797 digits: 1297 train, 500 validation.

    Returns RGB images uint8 [n, 32, 32, 3] (8x8 grey levels 0..16, upsampled bicubically) and labels int64 [n].
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = np.round(digits.images * (255.0 / 16.0)).astype(np.uint8)
    size = (IMAGE_SIZE, IMAGE_SIZE)
    grey = np.stack([np.asarray(Image.fromarray(d).resize(size, Image.Resampling.BICUBIC)) for d in small])
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(grey))
    chosen = order[VALIDATION:] if train else order[:VALIDATION]
    images = np.repeat(grey[chosen][..., None], 3, axis=3)
    return images, digits.target[chosen].astype(np.int64)


def build_vit_digits() -> nn.Module:
    """Build `vit_digits` without weights: 8x8 patches of 4 px, 64 channels, 6 blocks, 4 heads."""
    from timm.models.vision_transformer import VisionTransformer

    model: nn.Module = VisionTransformer(
        img_size=IMAGE_SIZE, patch_size=4, num_classes=10, embed_dim=64, depth=6, num_heads=4
    )
    return model


def build_swin_digits() -> nn.Module:
    """Build `swin_digits` without weights: stages of 2 blocks on 16x16, 8x8 and 4x4 maps, window 4."""
    from timm.models.swin_transformer import SwinTransformer

    model: nn.Module = SwinTransformer(
        img_size=IMAGE_SIZE,
        patch_size=2,
        num_classes=10,
        embed_dim=32,
        depths=(2, 2, 2),
        num_heads=(2, 4, 8),
        window_size=4,
        drop_path_rate=0.0,
    )
    return model
