"""SPDFQ (SARDFQ in its later versions): data-free quantization of vision transformers.

arXiv 2412.16553. Attention Priors Alignment (`apa`), Multi-Semantic Reinforcement (`msr`) and Soft-label
Learning (`soft_labels`), summed in `method`. Importing this package registers the method, without torch.
"""

from methods.registry import METHODS

METHODS.register("spdfq", "spdfq.method:SPDFQ")
METHODS.register("spdfq_paper", "spdfq.method:SPDFQPaper")
