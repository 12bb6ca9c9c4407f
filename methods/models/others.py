"""Families of which nothing is known but names: a row each.

blocks: what is learned as one; maps: attention over a grid of tokens. A family that needs code of its own has a file.
"""

from __future__ import annotations

from methods.models.family import Family

_CHANNELS = "its attention is over channels, not over places"
_LINEAR = "its attention is linear: no softmax says where a token looks"
_NONE = "it has no attention"

FAMILIES = (
    Family("EVA, RoPE ViT", ("eva",), ("EvaBlock", "EvaBlockPostNorm"), ("EvaAttention", "AttentionRope")),
    Family("BEiT", ("beit",), ("Block",), ("Attention",)),
    Family("ViT with relative positions", ("vision_transformer_relpos",), ("RelPosBlock",), ("RelPosAttention",)),
    Family("NaFlexViT", ("naflexvit",), ("Block",), ("Attention",)),
    Family("ConViT", ("convit",), ("Block",), ("GPSA", "MHSA")),
    Family("CaiT", ("cait",), ("LayerScaleBlock", "LayerScaleBlockClassAttn"), ("ClassAttn",)),
    Family("XCiT", ("xcit",), ("XCABlock", "ClassAttentionBlock"), ("ClassAttn",)),
    Family("CrossViT", ("crossvit",), ("Block", "CrossAttentionBlock"), ("Attention", "CrossAttention")),
    Family("TNT", ("tnt",), (), ("Attention",)),
    Family("PiT", ("pit",), ("Block",), ("Attention",)),
    Family("VOLO", ("volo",), ("Outlooker", "Transformer", "ClassBlock"), ("Attention", "ClassAttention")),
    Family("LeViT", ("levit",), ("LevitBlock", "LevitDownsample"), ("Attention", "AttentionDownsample")),
    Family("PVT v2", ("pvt_v2",), ("Block",), ("Attention",)),
    Family("Twins", ("twins",), ("Block",), ("GlobalSubSampleAttn", "LocallyGroupedAttn")),
    Family("NesT", ("nest",), ("TransformerLayer",), ("Attention",), learning_rate=0.25, alike="swin_t"),
    Family("Hiera", ("hiera",), ("HieraBlock",), ("MaskUnitAttention",), learning_rate=0.25, alike="swin_t"),
    Family("MViTv2", ("mvitv2",), (), ("MultiScaleAttention",)),
    Family("CoaT", ("coat",), ("SerialBlock",), without_maps=_CHANNELS),
    Family(
        "Swin V2",
        ("swin_transformer_v2",),
        ("SwinTransformerV2Block", "PatchMerging"),
        ("WindowAttention",),
        learning_rate=0.25,
        alike="swin_t",
    ),
    Family(
        "Swin V2 CR",
        ("swin_transformer_v2_cr",),
        ("SwinTransformerV2CrBlock", "PatchMerging"),
        ("WindowMultiHeadAttention",),
        learning_rate=0.25,
        alike="swin_t",
    ),
    Family(
        "MaxViT, CoAtNet",
        ("maxxvit",),
        (
            "MbConvBlock",
            "ConvNeXtBlock",
            "PartitionAttentionCl",
            "PartitionAttention2d",
            "ParallelPartitionAttention",
            "TransformerBlock2d",
            "TransformerBlockCl",
        ),
        ("AttentionCl", "Attention2d"),
        learning_rate=0.25,
        alike="swin_t",
    ),
    Family(
        "GC ViT",
        ("gcvit",),
        ("MbConvBlock", "GlobalContextVitBlock"),
        ("WindowAttentionGlobal",),
        learning_rate=0.25,
        alike="swin_t",
    ),
    Family(
        "DaViT", ("davit",), ("SpatialBlock", "ChannelBlock"), ("WindowAttention",), learning_rate=0.25, alike="swin_t"
    ),
    Family(
        "TinyViT",
        ("tiny_vit",),
        ("MBConv", "TinyVitBlock", "PatchMerging"),
        ("Attention",),
        learning_rate=0.25,
        alike="swin_t",
    ),
    Family("Visformer", ("visformer",), ("Block",), ("Attention",)),
    Family("MetaFormer", ("metaformer",), ("MetaFormerBlock",), ("Attention",)),
    Family("EfficientFormer", ("efficientformer",), ("MetaBlock2d", "MetaBlock1d"), ("Attention",)),
    Family("EfficientFormer V2", ("efficientformer_v2",), ("EfficientFormerV2Block",), ("Attention2dDownsample",)),
    Family("FastViT", ("fastvit",), ("RepMixerBlock", "AttentionBlock"), ("Attention",)),
    Family("Next-ViT", ("nextvit",), ("NextConvBlock", "NextTransformerBlock"), ("EfficientAttention",)),
    Family("iFormer", ("iformer",), ("ConvBlock", "SHMABlock", "FFN"), ("SHMA",)),
    Family("LowFormer", ("lowformer",), ("ResidualBlock", "LowFormerBlock"), ("ConvAttention",)),
    Family("CPUBone", ("cpubone",), ("ResidualBlock", "CPUBoneBlock"), ("ConvAttention",)),
    Family("CSATv2", ("csatv2",), ("Block", "TransformerBlock"), ("Attention",)),
    Family("MobileViT", ("mobilevit",), ("BottleneckBlock", "MobileVitBlock", "MobileVitV2Block"), ("Attention",)),
    Family("BoTNet, HaloNet, LambdaNet", ("byoanet",), ("BottleneckBlock", "SelfAttnBlock"), ("BottleneckAttn",)),
    Family("SHViT", ("shvit",), ("BasicBlock",), ("SHSA",)),
    Family("EfficientViT (MSRA)", ("efficientvit_msra",), ("EfficientVitBlock",), ("CascadedGroupAttention",)),
    Family("EfficientViT (MIT)", ("efficientvit_mit",), ("ResidualBlock", "EfficientVitBlock"), without_maps=_LINEAR),
    Family("SwiftFormer", ("swiftformer",), ("ConvEncoder", "Block"), without_maps=_LINEAR),
    Family("EdgeNeXt", ("edgenext",), ("ConvBlock", "SplitTransposeBlock"), without_maps=_CHANNELS),
    Family("FocalNet", ("focalnet",), ("FocalNetBlock",), without_maps=_NONE),
    Family("RepViT", ("repvit",), ("RepViTBlock",), without_maps=_NONE),
)
