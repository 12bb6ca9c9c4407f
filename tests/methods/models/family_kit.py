"""What tests of families share: the smallest member of each, its images, a watch of what it multiplies, and the table
of `docs/models.md`, made of what a run of `test_families.py` with `--junitxml families.xml` notes:

    PYTHONPATH=. python tests/methods/models/family_kit.py docs/models.md families.xml
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import timm
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from methods.contracts import ImageSpace
from methods.models.family import families
from methods.models.trace import image_shape

SMALLEST = {
    "vision_transformer": "test_vit",
    "deit": "deit_tiny_distilled_patch16_224",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_relpos_small_patch16_224",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_ns_224",
    "eva": "eva02_tiny_patch14_336",
    "beit": "beit_base_patch16_224",
    "naflexvit": "naflexvit_base_patch16_gap",
    "convit": "convit_tiny",
    "cait": "cait_xxs24_224",
    "xcit": "xcit_nano_12_p16_224",
    "crossvit": "crossvit_9_240",
    "tnt": "tnt_s_legacy_patch16_224",
    "pit": "pit_ti_224",
    "volo": "volo_d1_224",
    "levit": "levit_128s",
    "pvt_v2": "pvt_v2_b0",
    "twins": "twins_svt_small",
    "nest": "nest_tiny_jx",
    "hiera": "hiera_tiny_224",
    "mvitv2": "mvitv2_tiny",
    "coat": "coat_lite_tiny",
    "maxxvit": "coatnet_nano_rw_224",
    "gcvit": "gcvit_xxtiny",
    "davit": "davit_tiny",
    "tiny_vit": "tiny_vit_5m_224.dist_in22k_ft_in1k",
    "visformer": "visformer_tiny",
    "metaformer": "caformer_s18",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "fastvit": "fastvit_sa12",
    "nextvit": "nextvit_small",
    "iformer": "iformer_t",
    "lowformer": "lowformer_b0",
    "cpubone": "cpubone_nano",
    "csatv2": "csatv2",
    "mobilevit": "mobilevit_xxs",
    "byoanet": "botnet26t_256",
    "shvit": "shvit_s1",
    "efficientvit_msra": "efficientvit_m0",
    "efficientvit_mit": "efficientvit_b0",
    "swiftformer": "swiftformer_xs",
    "edgenext": "edgenext_xx_small",
    "focalnet": "focalnet_tiny_srf",
    "repvit": "repvit_m0_9",
}
NOTED = ("integer", "minmax w8a8", "minmax w4a4", "best w8a8", "best w4a4", "file w8a8")
"""What the tests note, in the table's order."""
NOT_RUN = "not run"
_SAMPLE, _SLICES = 20_000, 4
_TABLE = re.compile("(?<=<!-- matrix -->\n).*?(?=<!-- matrix end -->)", re.S)


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False)
    for parameter in model.parameters():
        # some families leave position embeddings as they find the memory, and Hiera's classifier begins at zero
        if not parameter.isfinite().all() or (parameter.dim() > 1 and not parameter.any()):
            nn.init.normal_(parameter, std=0.02)
    return model.eval().requires_grad_(False)


def space_of(model: nn.Module) -> ImageSpace:
    channels, height, width = image_shape(model)
    return ImageSpace(height, width, (0.5,) * channels, (0.5,) * channels)


def images_of(model: nn.Module, count: int = 2) -> Tensor:
    """Images of pixels in [0, 1], as all images are: what lies beyond that box is clipped."""
    drawn = torch.rand((count, *image_shape(model)), generator=torch.Generator().manual_seed(1))
    return drawn * 2 - 1


class Products(TorchDispatchMode):
    """Counts the multiply-accumulates torch is given, and those of them with both operands on a grid of `bits`."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits: int = bits
        self.all = self.integer = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        name = function.name().partition("::")[2].partition(".")[0]
        assert "attention" not in name  # no fused kernel hides its softmax output
        first = {"mm": 0, "bmm": 0, "convolution": 0, "addmm": 1, "baddbmm": 1}.get(name)
        if first is not None:
            left, right = arguments[first : first + 2]
            count = result.numel() * (right[0].numel() if name == "convolution" else left.shape[-1])
            if name == "convolution" and arguments[6]:
                count = left.numel() * right[0].numel()
            self.all += count
            self.integer += count * (self.gridded(left) and self.gridded(right))
        return result

    def gridded(self, x: Tensor) -> bool:
        """Whether x has at most 2^bits values, as a whole or along one dimension; an image has eight bits."""
        most = 1 << (8 if x.dim() == 4 and x.shape[1] == 3 else self.bits)
        flat = x.flatten()
        if few(flat[:: max(1, len(flat) // _SAMPLE)], most):
            return True
        return any(all(few(part[:_SAMPLE], most) for part in slices(x, dim)) for dim in range(x.dim()))


def few(values: Tensor, most: int) -> bool:
    return len(values.unique()) <= most


def slices(x: Tensor, dim: int) -> Iterator[Tensor]:
    for index in range(0, x.shape[dim], max(1, x.shape[dim] // _SLICES)):
        yield x.select(dim, index).flatten()


def calls(model: nn.Module, images: Tensor, bits: int) -> Products:
    watch = Products(bits)
    with torch.no_grad(), watch:
        model(images)
    return watch


def noted(files: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Return what the tests of each model noted, as `--junitxml` has written it."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for case in (case for file in files for case in ElementTree.parse(file).iter("testcase")):
        name = case.get("name", "").partition("[")[2].removesuffix("]")
        found[name] |= {row.get("name", ""): row.get("value", "") for row in case.iter("property")}
    return found


def standing(table: str) -> dict[str, dict[str, str]]:
    """Return what a table of `main` says of each model."""
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return {row[1]: dict(zip(NOTED, row[2:], strict=True)) for row in rows[2:]}


def main(document: str, *files: str) -> None:
    """Write what runs have noted into a document's table of models, whose other figures stand."""
    path, new = Path(document), noted([Path(file) for file in files])
    text = path.read_text()
    old = standing(_TABLE.findall(text)[0])
    rows = [f"| family | model | {' | '.join(NOTED)} |", f"|{'---|' * (2 + len(NOTED))}"]
    for module, name in sorted(SMALLEST.items(), key=lambda item: families()[item[0]].name.lower()):
        figures = dict.fromkeys(NOTED, NOT_RUN) | old.get(name, {}) | new[name]
        if set(figures.values()) != {NOT_RUN}:
            rows.append(f"| {families()[module].name} | {name} | {' | '.join(figures[what] for what in NOTED)} |")
    counts = ", ".join(
        f"{what} {sum(NOT_RUN not in row.split(' | ')[at] for row in rows[2:])}"
        for at, what in enumerate(NOTED, start=2)
    )
    body = "\n".join([*rows, "", f"Run, of {len(SMALLEST)} families: {counts}."])
    path.write_text(_TABLE.sub(lambda _: f"{body}\n", text))


if __name__ == "__main__":
    main(*sys.argv[1:])
