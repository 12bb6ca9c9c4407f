"""The method `psaq_vit_v2`: PSAQ-ViT V2, images on which a quantized student and its teacher differ.

Li, Chen, Xiao, Gu, "PSAQ-ViT V2: Towards Accurate and General Data-Free Quantization for Vision Transformers",
TNNLS 2023. No classes: L = -D + L_PSE + 0.05 L_TV, with the discrepancy D = mean |F(x) - Q(x)| of the logits of the
model F and of a quantized student Q, and L_PSE and L_TV of PSAQ-ViT (`methods.synthesis.psaq_vit`). Steps alternate:
the images maximise D, the student, whose weights learn straight through its quantizers, minimises it. Its code was
never released. Inferred: all settings but PSAQ-ViT's own; the student's bits, which are those of a synthesis and not
of what is quantized with its images; its min-max ranges, set anew on the images before each of its steps
(`methods.synthesis.psaq_vit_v2`); Adam; that the student answers the images as shown; L_TV as the TV-like prior of
the paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.bits import Bits
from methods.contracts import Method, SynthesisContext, SyntheticImages
from methods.errors import UsageError
from methods.models.architecture import patch_sites
from methods.models.family import family_named
from methods.optimisation.loop import LoopSettings, from_noise
from methods.optimisation.losses import total_variation, variation_target
from methods.optimisation.patch_similarity import DensityLaw, PatchEntropy
from methods.optimisation.views import Jitter
from methods.quant.calibrate import calibrate
from methods.quant.insert import insert_quantizers, quantized_layers
from methods.quant.recipe import MIN_MAX


@dataclass(frozen=True)
class PSAQViTV2Config:
    """Settings of PSAQ-ViT V2; defaults are PSAQ-ViT's where it has them, else our choice."""

    images: int = 32
    """How many."""
    iterations: int = 1000
    """Image steps in all."""
    rounds: int = 2
    """Into how many equal parts they are cut."""
    learning_rate: float = 0.2
    """Peak rate of the pixels in normalized values (0.20, Swin 0.25)."""
    warmup: float = 0.2
    """Share of a round's steps it rises over."""
    beta1: float = 0.5
    """Adam's decay of the first moment."""
    beta2: float = 0.9
    """Adam's decay of the second moment."""
    jitter: int = 15
    """Largest roll of the first round in pixels of a 224 px image, twice as far in the second and so on."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    discrepancy_weight: float = 1.0
    """Weight of D."""
    pse_weight: float = 1.0
    """Weight of L_PSE."""
    tv_weight: float = 0.05
    """Weight of L_TV."""
    student_bits: str = "w4a8"
    """Bits of the student (the paper's lower setting)."""
    student_rate: float = 4e-5
    """Its learning rate."""
    student_steps: int = 1
    """Its steps between two image steps."""
    bandwidth: float = 0.01
    """Of the kernel that estimates the density (`methods.optimisation.patch_similarity`)."""
    points: int = 10
    """At which the density is read (`methods.optimisation.patch_similarity`)."""
    precision: str = "fp32"
    """Of the forward passes of image steps."""

    def __post_init__(self) -> None:
        if self.images < 1 or min(self.discrepancy_weight, self.pse_weight, self.tv_weight, self.jitter) < 0:
            raise UsageError("psaq_vit_v2 needs images >= 1, jitter >= 0 and weights >= 0.")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and 0 <= self.flip <= 1):
            raise UsageError("psaq_vit_v2 needs beta1 and beta2 from 0 to below 1, and flip from 0 to 1.")
        if self.student_steps < 0 or self.student_rate <= 0 or Bits.parse(self.student_bits).float:
            raise UsageError("psaq_vit_v2 needs student_steps >= 0, student_rate > 0 and a student that is quantized.")
        self.loop(), DensityLaw(self.bandwidth, self.points)

    def loop(self) -> LoopSettings:
        """Return the settings of the shared loop."""
        betas = (self.beta1, self.beta2)
        return LoopSettings(self.iterations, self.learning_rate, betas, self.warmup, self.precision, self.rounds)


class PSAQViTV2(Method):
    """Adaptive teacher-student synthesis."""

    name = "psaq_vit_v2"
    version = 2
    paper = "PSAQ-ViT V2 (TNNLS 2023)"
    config_class = PSAQViTV2Config
    needs_classes = False
    inferred = "all but the losses' form: the student's bits, ranges, rate and steps, weights of the terms, schedule"
    short: ClassVar = {"iterations": 100}
    space: ClassVar = {
        "learning_rate": {"min": 0.02, "max": 0.5, "scaling": "log"},
        "discrepancy_weight": {"min": 0.01, "max": 100.0, "scaling": "log"},
        "pse_weight": {"min": 0.01, "max": 10.0, "scaling": "log"},
        "student_rate": {"min": 1e-6, "max": 1e-3, "scaling": "log"},
        "student_bits": {"choices": ["w4a4", "w4a8", "w8a8"]},
    }

    def default_config(self, model: str) -> PSAQViTV2Config:
        """Return the defaults with the learning rate of the model's family."""
        return PSAQViTV2Config(learning_rate=family_named(model).learning_rate)

    def check(self, model: nn.Module, config: PSAQViTV2Config) -> None:
        """Refuse models without attention between patches."""
        if config.pse_weight > 0:
            patch_sites(model)

    def image_passes(self, config: PSAQViTV2Config) -> float:
        """Count an image step as a pass of each network and a forward pass, a third of one, for the ranges; a step
        of the student as one and the teacher's forward pass."""
        return config.iterations * config.images * (2 + 1 / 3 + config.student_steps * (1 + 1 / 3))

    def synthesize(self, model: nn.Module, config: PSAQViTV2Config, context: SynthesisContext) -> SyntheticImages:
        """Optimise the pixels from noise, against a student that learns; refuses models it cannot quantize."""
        objective = _Objective(model, config, context)
        pixels = context.space.pixels(config.jitter)
        jitter = Jitter.growing(pixels, config.rounds, config.flip, context.generator)
        return from_noise(config.images, objective, config.loop(), context, jitter)


class _Objective:
    """The loss of one synthesis, and the student it is made against."""

    def __init__(self, model: nn.Module, config: PSAQViTV2Config, context: SynthesisContext) -> None:
        self.config = config
        law = DensityLaw(config.bandwidth, config.points)
        self.entropy = PatchEntropy(model, law, config.pse_weight, context.micro_batch)
        self.student = Student(model, Bits.parse(config.student_bits), config.student_rate, context)
        shape = torch.empty((config.images, *context.space.shape), device="meta")
        self.variation_target = variation_target(shape, context.generator)

    def __call__(self, shown: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
        """Let the student answer the last image step, then yield the weighted terms of this one."""
        self.student.calibrate(shown)
        for _ in range(self.config.student_steps if step else 0):
            self.student.learn(shown)
        yield from self.entropy.terms(shown, partial(self._discrepancy, shown))
        if self.config.tv_weight > 0:
            yield {"tv": self.config.tv_weight * (total_variation(shown) - self.variation_target).abs()}

    def _discrepancy(self, shown: Tensor, logits: Tensor, rows: slice) -> dict[str, Tensor]:
        """Return -D of a micro-batch, from the model's logits and the student's."""
        apart = (logits - self.student(shown[rows])).abs().sum() / (len(shown) * logits.shape[1])
        return {"discrepancy": -self.config.discrepancy_weight * apart}


class Student:
    """Weights symmetric per channel with the ranges of the model's own, activations asymmetric per tensor.

    Gradients pass straight through rounding, to the pixels and, within `learn`, to weights and biases.
    """

    def __init__(self, model: nn.Module, bits: Bits, learning_rate: float, context: SynthesisContext) -> None:
        """Copy and quantize the model; raises UsageError for a family that is not supported."""
        self.teacher, self.micro_batch = model, context.micro_batch
        self.network = insert_quantizers(model, bits, MIN_MAX, context.space)
        layers = [layer.layer for _, layer in quantized_layers(self.network)]
        self.parameters = [p for layer in layers for p in (layer.weight, layer.bias) if p is not None]
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the student's logits, differentiable with respect to the images [n, C, H, W]."""
        logits: Tensor = self.network(images)
        return logits

    def calibrate(self, images: Tensor) -> None:
        """Set the ranges of all activations from minimum to maximum over the images."""
        calibrate(self.network, images)

    def learn(self, images: Tensor) -> float:
        """Take one step of Adam towards the model's logits on the images; return the discrepancy before it."""
        self._learning(True)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        with torch.autocast(images.device.type, enabled=False):
            for batch in images.detach().split(self.micro_batch):
                with torch.no_grad():
                    wanted = self.teacher(batch)
                loss = functional.l1_loss(self(batch), wanted) * len(batch) / len(images)
                loss.backward()
                total += loss.item()
        self.optimizer.step()
        self._learning(False)
        return total

    def _learning(self, on: bool) -> None:
        """Let gradients reach weights and biases, or not, which spares an image step their cost."""
        for parameter in self.parameters:
            parameter.requires_grad_(on)
