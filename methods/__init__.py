"""Synthesis methods and quantization backends behind two registries; importing this loads no torch."""

from methods.registry import BACKENDS, METHODS

METHODS.register("noise", "methods.noise:Noise")
METHODS.register("real", "methods.real:Real")
METHODS.register("psaq_vit", "methods.psaq_vit:PSAQViT")
METHODS.register("mimiq", "methods.mimiq:MimiQ")
METHODS.register("maskaq", "methods.maskaq:MaskAQ")
METHODS.register("clamp_vit", "methods.clamp_vit:ClampViT")
METHODS.register("psaq_vit_v2", "methods.psaq_vit_v2:PSAQViTV2")
METHODS.register("dmi", "methods.dmi:DMI")
METHODS.register("smi", "methods.smi:SMI")
METHODS.register("fdd", "methods.fdd:FDD")
BACKENDS.register("minmax", "methods.backends.minmax:MinMax")
BACKENDS.register("blockwise", "methods.backends.blockwise:Blockwise")
BACKENDS.register("repq", "methods.backends.repq:RepQ")
BACKENDS.register("erq", "methods.backends.erq:Erq")
BACKENDS.register("ias", "methods.backends.ias:Ias")
BACKENDS.register("best", "methods.backends.best:Best")
BACKENDS.register("mimiq_qat", "methods.backends.mimiq_qat:MimiQQat")
BACKENDS.register("clamp_search", "methods.backends.clamp_search:ClampSearch")

__all__ = ["BACKENDS", "METHODS"]
