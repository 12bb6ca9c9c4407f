"""What the methods and backends need to know of stock timm transformers: attention sites and units.

Two families are understood: `VisionTransformer` (ViT, DeiT, with class token, distillation token, register
tokens or average pooling) and `SwinTransformer`. Everything else is refused with a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from timm.layers import Attention, Mlp
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock, WindowAttention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from methods.errors import UsageError


@dataclass(frozen=True)
class AttentionSite:
    """One attention module: block `depth` (1-based) of `depths`, and the grid its keys lie on.

    grid: rows and columns of the map one head attends over - all patches for a ViT, one window for Swin;
    windows: maps per image; prefix: tokens before the patches; class_token: whether token 0 is the class
    token, whose row stands for the head (otherwise the mean over all queries does).
    """

    module: nn.Module
    depth: int
    depths: int
    heads: int
    grid: tuple[int, int]
    windows: int
    prefix: int
    class_token: bool


def check_supported(model: nn.Module) -> None:
    """Raise UsageError unless `model` is of a family this project understands, built of stock blocks."""
    if isinstance(model, VisionTransformer):
        parts = [block.attn if isinstance(block, Block) else block for block in model.blocks]
        odd = sorted({type(part).__name__ for part in parts if not isinstance(part, Attention)})
        if odd:
            raise UsageError(f"A VisionTransformer built of {', '.join(odd)} is not supported.")
        if model.attn_pool is not None:
            raise UsageError("A VisionTransformer with attention pooling is not supported.")
        return
    if not isinstance(model, SwinTransformer):
        raise UsageError(
            f"{type(model).__name__} is not supported: only timm's VisionTransformer and SwinTransformer are."
        )


def attention_modules(model: nn.Module) -> list[Any]:
    """Return the attention modules in the order of computation."""
    return [m for m in model.modules() if isinstance(m, Attention | WindowAttention)]


def _vit_sites(model: VisionTransformer) -> Iterator[AttentionSite]:
    rows, columns = model.patch_embed.grid_size
    for index, block in enumerate(model.blocks):
        yield AttentionSite(
            module=block.attn,
            depth=index + 1,
            depths=len(model.blocks),
            heads=block.attn.num_heads,
            grid=(rows, columns),
            windows=1,
            prefix=model.num_prefix_tokens,
            class_token=model.cls_token is not None,
        )


def _swin_sites(model: SwinTransformer) -> Iterator[AttentionSite]:
    blocks = [m for m in model.modules() if isinstance(m, SwinTransformerBlock)]
    for index, block in enumerate(blocks):
        rows, columns = block.window_size
        across = -(-block.input_resolution[0] // rows) * -(-block.input_resolution[1] // columns)
        yield AttentionSite(
            module=block.attn,
            depth=index + 1,
            depths=len(blocks),
            heads=block.attn.num_heads,
            grid=(rows, columns),
            windows=across,
            prefix=0,
            class_token=False,
        )


def attention_sites(model: nn.Module) -> list[AttentionSite]:
    """Return every attention site of a supported model, in order of depth."""
    check_supported(model)
    if isinstance(model, VisionTransformer):
        return list(_vit_sites(model))
    assert isinstance(model, SwinTransformer)
    return list(_swin_sites(model))


def reconstruction_units(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the units of block-wise reconstruction, named, in the order of computation.

    Patch embedding, every block, Swin's patch mergings, and the classifier's linear layer (as in the
    authors' I&S-ViT code, after which SPDFQ's missing parts are modelled).
    """
    check_supported(model)
    units = (Block, SwinTransformerBlock, PatchMerging)
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, units) or name == "patch_embed"]
    head = [(name, m) for name, m in model.named_modules() if name in ("head", "head_dist", "head.fc")]
    return found + [(name, m) for name, m in head if isinstance(m, nn.Linear)]


@dataclass(frozen=True)
class NormedLayer:
    """A linear layer fed by a LayerNorm and by nothing else, and the norm that feeds no other layer."""

    norm: str
    layer: str


def normed_layers(model: nn.Module) -> list[NormedLayer]:
    """Return the q/k/v projections, first MLP layers and Swin reductions that a LayerNorm feeds, by name.

    Left out are pairs between which something else stands or looks: a norm without bias (no shift can be put
    into it), a gate that reads the same norm, windows padded with zeros behind the norm.
    """
    check_supported(model)
    found = []
    for name, module in model.named_modules():
        if isinstance(module, Block | SwinTransformerBlock):
            if getattr(module.attn, "gate", None) is None and not padded(module):
                found.append(NormedLayer(f"{name}.norm1", f"{name}.attn.qkv"))
            found.append(NormedLayer(f"{name}.norm2", f"{name}.mlp.fc1"))
        elif isinstance(module, PatchMerging):
            found.append(NormedLayer(f"{name}.norm", f"{name}.reduction"))
    return [pair for pair in found if _shiftable(model.get_submodule(pair.norm))]


def activated_layers(model: nn.Module) -> list[str]:
    """Return the names of the second MLP layers that a GELU, and nothing else, feeds."""
    check_supported(model)
    mlps = [(name, m) for name, m in model.named_modules() if isinstance(m, Mlp)]
    return [f"{name}.fc2" for name, m in mlps if isinstance(m.act, nn.GELU) and isinstance(m.norm, nn.Identity)]


def padded(block: nn.Module) -> bool:
    """Whether a Swin block fills up its map with zeros before cutting it into windows."""
    if not isinstance(block, SwinTransformerBlock):
        return False
    return any(size % window for size, window in zip(block.input_resolution, block.window_size, strict=True))


def _shiftable(norm: nn.Module) -> bool:
    return isinstance(norm, nn.LayerNorm) and norm.elementwise_affine and norm.bias is not None


def product_layers(model: nn.Module) -> list[tuple[str, nn.Linear | nn.Conv2d]]:
    """Return the linear and convolution layers of a model with their names."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def named_attentions(model: nn.Module) -> list[tuple[str, Any]]:
    """Return the attention modules of a model with their names."""
    found = {id(module) for module in attention_modules(model)}
    return [(name, module) for name, module in model.named_modules() if id(module) in found]


def layer_names(model: nn.Module) -> list[str]:
    """Return the names bits can be given to: layers, and attention modules for the operands of their products."""
    known = {name for name, _ in (*product_layers(model), *named_attentions(model))}
    return [name for name, _ in model.named_modules() if name in known]
