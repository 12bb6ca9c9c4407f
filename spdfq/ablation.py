"""The paper's ablation: which settings make each row, and what the paper reports for it.

Figures are top-1 of W4A4 DeiT-S on the 50,000 ImageNet validation images. The rows without depth weight and
on all blocks are known as differences from the full method only (-0.97 and -0.33); the figures follow.
"""

from __future__ import annotations

from methods.contracts import AblationRow


def _parts(name: str, apa: bool, msr: bool, soft_labels: bool, reported: float) -> AblationRow:
    settings = {"apa": apa, "msr": msr, "soft_labels": soft_labels}
    return AblationRow(name, settings, reported, full=apa and msr and soft_labels)


ROWS = (
    _parts("none", False, False, False, 51.73),
    _parts("APA", True, False, False, 60.26),
    _parts("MSR", False, True, False, 50.75),
    _parts("SL", False, False, True, 52.02),
    _parts("APA + MSR", True, True, False, 61.58),
    _parts("APA + SL", True, False, True, 60.51),
    _parts("MSR + SL", False, True, True, 56.08),
    _parts("APA + MSR + SL", True, True, True, 62.29),
    AblationRow("Laplace priors", {"prior_law": "laplace"}, 62.16),
    AblationRow("priors from real images", {"prior_law": "real"}, 63.19),
    AblationRow("no depth weight", {"depth_weight": False}, 61.32),
    AblationRow("all blocks", {"first_layer": 0.0}, 61.96),
)
