"""Swin: attention in windows."""

from __future__ import annotations

from typing import Any

from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from torch import nn

from methods.models.family import Family
from methods.models.residual import POOLS, Reader, ResidualStream, Writer, pass_block
from methods.models.sites import AttentionSite


def sites(model: Any) -> list[AttentionSite]:
    """Return the attention of every block, over one window."""
    blocks = [m for m in model.modules() if isinstance(m, SwinTransformerBlock)]
    return [_site(block, index + 1, len(blocks)) for index, block in enumerate(blocks)]


def _site(block: Any, depth: int, depths: int) -> AttentionSite:
    rows, columns = block.window_size
    windows = -(-block.input_resolution[0] // rows) * -(-block.input_resolution[1] // columns)
    return AttentionSite(
        module=block.attn,
        depth=depth,
        depths=depths,
        heads=block.attn.num_heads,
        grid=(rows, columns),
        windows=windows,
        prefix=0,
        class_token=False,
    )


def streams(model: SwinTransformer) -> list[ResidualStream]:
    """Return one stream per stage; not the first where patches are normed, none where windows are padded."""
    blocks = [module for module in model.modules() if isinstance(module, SwinTransformerBlock)]
    if any(_padded(block) for block in blocks) or model.head.global_pool.pool_type not in POOLS:
        return []
    stream = ResidualStream(model.embed_dim, [Writer("patch_embed.proj")])
    found: list[ResidualStream] = []
    if isinstance(model.patch_embed.norm, nn.Identity):
        found.append(stream)
    for index, stage in enumerate(model.layers):
        if isinstance(stage.downsample, PatchMerging):
            merging = f"layers.{index}.downsample"
            stream.readers.append(Reader(f"{merging}.norm", (f"{merging}.reduction",), copies=4))
            stream = ResidualStream(stage.downsample.out_dim, [Writer(f"{merging}.reduction")])
            found.append(stream)
        for number, block in enumerate(stage.blocks):
            pass_block(stream, f"layers.{index}.blocks.{number}", block)
    stream.readers.append(Reader("norm", ("head.fc",)))
    return found


def _padded(block: SwinTransformerBlock) -> bool:
    """Whether a block fills up its map with zeros before cutting it into windows."""
    return any(size % window for size, window in zip(block.input_resolution, block.window_size, strict=True))


FAMILY = Family(
    "Swin",
    ("swin_transformer",),
    blocks=("SwinTransformerBlock", "PatchMerging"),
    maps=("WindowAttention",),
    projected=("WindowAttention",),
    sites=sites,
    streams=streams,
    learning_rate=0.25,
    alike="swin_t",
    short=("swin_",),
)
