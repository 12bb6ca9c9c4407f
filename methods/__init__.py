"""Synthesis methods and quantization backends behind two registries; importing this loads no torch."""

from methods.registry import BACKENDS, METHODS

METHODS.register("noise", "methods.synthesis.noise:Noise")
METHODS.register("real", "methods.synthesis.real:Real")
METHODS.register("psaq_vit", "methods.synthesis.psaq_vit:PSAQViT")
METHODS.register("mimiq", "methods.synthesis.mimiq:MimiQ")
METHODS.register("maskaq", "methods.synthesis.maskaq:MaskAQ")
METHODS.register("clamp_vit", "methods.synthesis.clamp_vit:ClampViT")
METHODS.register("psaq_vit_v2", "methods.synthesis.psaq_vit_v2:PSAQViTV2")
METHODS.register("dmi", "methods.synthesis.dmi:DMI")
METHODS.register("smi", "methods.synthesis.smi:SMI")
METHODS.register("fdd", "methods.synthesis.fdd:FDD")
BACKENDS.register("minmax", "methods.backends.minmax:MinMax")
BACKENDS.register("blockwise", "methods.backends.blockwise:Blockwise")
BACKENDS.register("repq", "methods.backends.repq:RepQ")
BACKENDS.register("erq", "methods.backends.erq:Erq")
BACKENDS.register("ias", "methods.backends.ias:Ias")
BACKENDS.register("glf", "methods.backends.glf:Glf")
BACKENDS.register("adalog", "methods.backends.adalog:AdaLog")
BACKENDS.register("fima", "methods.backends.fima:Fima")
BACKENDS.register("aphq", "methods.backends.aphq:Aphq")
BACKENDS.register("best", "methods.backends.best:Best")
BACKENDS.register("mimiq_qat", "methods.backends.mimiq_qat:MimiQQat")
BACKENDS.register("clamp_search", "methods.backends.clamp_search:ClampSearch")
BACKENDS.register("nncf", "methods.backends.nncf:Nncf")
BACKENDS.register("ort", "methods.backends.ort:Ort")

__all__ = ["BACKENDS", "METHODS"]
