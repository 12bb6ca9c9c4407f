"""ViT and DeiT, hybrids with a convolutional stem among them."""

from __future__ import annotations

from typing import Any

from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from methods.models.family import Family
from methods.models.residual import POOLS, Reader, ResidualStream, Writer, pass_block
from methods.models.sites import AttentionSite


def sites(model: Any) -> list[AttentionSite] | None:
    """Return the attention of every block, over the grid of patches; None for one built of other blocks."""
    blocks = list(model.blocks) if isinstance(model, VisionTransformer) else []
    if not blocks or not all(isinstance(getattr(block, "attn", None), Attention) for block in blocks):
        return None
    return [
        AttentionSite(
            module=block.attn,
            depth=index + 1,
            depths=len(blocks),
            heads=block.attn.num_heads,
            grid=model.patch_embed.grid_size,
            windows=1,
            prefix=model.num_prefix_tokens,
            class_token=model.cls_token is not None,
        )
        for index, block in enumerate(blocks)
    ]


def streams(model: VisionTransformer) -> list[ResidualStream]:
    """Return the one stream of a model; none of one with a norm before its blocks, a gate, blocks or a head of another
    kind, or pooling by maximum or attention."""
    if not isinstance(model, VisionTransformer) or model.attn_pool is not None:
        return []
    outside = (model.norm_pre, getattr(model.patch_embed, "norm", nn.Identity()))
    if model.global_pool not in POOLS or not all(isinstance(norm, nn.Identity) for norm in outside):
        return []
    stream = ResidualStream(model.embed_dim, [Writer("patch_embed.proj")])
    stream.tokens = [name for name, _ in model.named_parameters(recurse=False)]
    for index, block in enumerate(model.blocks):
        if not isinstance(block, Block) or not isinstance(block.attn, Attention) or block.attn.gate is not None:
            return []
        pass_block(stream, f"blocks.{index}", block)
    last = "norm" if isinstance(model.fc_norm, nn.Identity) else "fc_norm"
    heads = [name for name in ("head", "head_dist") if hasattr(model, name)]
    stream.readers.append(Reader(last, tuple(heads)))
    return [stream]


FAMILY = Family(
    "ViT, DeiT",
    ("vision_transformer", "deit", "vision_transformer_hybrid"),
    blocks=("Block", "ResPostBlock", "ParallelScalingBlock", "ParallelThingsBlock", "DiffParallelScalingBlock"),
    maps=("Attention", "DiffAttention", "ParallelScalingBlock", "DiffParallelScalingBlock"),
    projected=("Attention",),
    sites=sites,
    streams=streams,
    short=("vit_", "deit_"),
)
