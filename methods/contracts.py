"""The contracts every method and backend keeps: what they are given and what they return.

A method makes calibration images from a model; a backend turns model, images and bits into a quantized
model. Neither knows of the harness, of Ray or of files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from methods.bits import Bits
from methods.errors import UsageError

Report: TypeAlias = Callable[[int, int], None]
"""Called with (steps done, steps in all); must be cheap."""


def silent(done: int, total: int) -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class ImageSpace:
    """The normalized pixel space a model takes its input from.

    `mean` and `std` are per channel, for pixels in [0, 1].
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return len(self.mean), self.height, self.width

    def pixels(self, published: float) -> float:
        """Return a distance in this space's pixels, given in pixels of the 224 px images that papers tell it for."""
        return published * min(self.height, self.width) / 224

    def bounds(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return the normalized box of valid pixels, [(0-m)/s, (1-m)/s], as two [C, 1, 1] tensors."""
        mean = torch.tensor(self.mean, device=device)[:, None, None]
        std = torch.tensor(self.std, device=device)[:, None, None]
        return -mean / std, (1 - mean) / std

    def normalize(self, pixels: Tensor) -> Tensor:
        """Map uint8 pixels [n, C, H, W] to normalized float32 images of the same shape."""
        mean = torch.tensor(self.mean, device=pixels.device)[:, None, None]
        std = torch.tensor(self.std, device=pixels.device)[:, None, None]
        return (pixels.float() / 255 - mean) / std


@dataclass
class SyntheticImages:
    """What a method leaves behind.

    images: normalized float32 [n, C, H, W], on the CPU; targets: class probabilities [n, classes] or
    None; losses: one value per step for every weighted term of the loss; extras: further tensors worth
    keeping with the images (regions, labels).
    """

    images: Tensor
    targets: Tensor | None = None
    losses: dict[str, list[float]] = field(default_factory=dict)
    extras: dict[str, Tensor] = field(default_factory=dict)


class Snapshots(Protocol):
    """Where the state of a long synthesis is kept, so that one that is killed goes on."""

    def due(self) -> bool:
        """Whether it is time to keep the state."""

    def store(self, state: dict[str, Tensor]) -> None:
        """Keep a state in place of the last one."""

    def load(self) -> dict[str, Tensor] | None:
        """Return the last state, on the CPU; None where there is none."""


@dataclass(frozen=True)
class SynthesisContext:
    """What a method may use beside the model.

    generator: a CPU generator, the only source of randomness, so that images do not depend on the
    device's own random streams; real_images: draws n normalized real images, given only where
    `needs_real_images` says so; micro_batch: most views pushed through the model at once, which bounds
    memory and not the result; snapshots: given only to methods that are `resumable`.
    """

    space: ImageSpace
    classes: int
    generator: torch.Generator
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    report: Report = silent
    real_images: Callable[[int], Tensor] | None = None
    micro_batch: int = 1 << 20
    snapshots: Snapshots | None = None


@dataclass(frozen=True)
class AblationRow:
    """A row of a paper's ablation: the settings that make it and the figure reported, in percent."""

    name: str
    settings: dict[str, Any]
    reported: float
    full: bool = False


class Method(ABC):
    """A way to make calibration images; see docs of each file for its paper."""

    name: ClassVar[str]
    version: ClassVar[int]
    paper: ClassVar[str]
    config_class: ClassVar[type]
    ablation: ClassVar[tuple[AblationRow, ...]] = ()
    ablation_setting: ClassVar[str] = ""
    inferred: ClassVar[str] = ""
    needs_classes: ClassVar[bool] = True
    resumable: ClassVar[bool] = False
    space: ClassVar[dict[str, dict[str, Any]]] = {}
    """Declarative search space: setting -> {"min", "max", "scaling"} or {"choices"}; `ablation`: the paper's rows,
    measured by it in `ablation_setting` (bits and model); `inferred`: in a few words what the paper leaves untold
    and was chosen here, empty where nothing is; `needs_classes`: whether images are aimed at the model's classes;
    `resumable`: whether all that changes from step to step is the shared loop's, the generator's or in the objective's
    `state` (`methods.optimisation.snapshots`), so that a killed synthesis can go on."""

    short: ClassVar[dict[str, Any]] = {}
    """Settings of a short run, over the defaults, for models that ask for one (the embedded ones)."""

    def default_config(self, model: str) -> Any:
        """Return the default config of a full run for a model's name; per-model tables override this."""
        return self.config_class()

    def check_classes(self, classes: int) -> None:
        """Raise UsageError for a model without classes, if the method aims its images at them."""
        if self.needs_classes and not classes:
            raise UsageError(f"{self.name} aims its images at classes, and the model has none.")

    def needs_real_images(self, config: Any) -> bool:
        """Whether the method draws on real images, which data-free ones never do."""
        return False

    def check(self, model: nn.Module, config: Any) -> None:  # noqa: B027 - most methods work on any model
        """Raise UsageError when the method cannot work on a model; asked while planning, before anything runs."""

    @abstractmethod
    def image_passes(self, config: Any) -> float:
        """Return the number of forward+backward passes of one image that a synthesis takes, for estimates."""

    @abstractmethod
    def synthesize(self, model: nn.Module, config: Any, context: SynthesisContext) -> SyntheticImages:
        """Make the images from a frozen model in eval mode."""


@dataclass(frozen=True)
class QuantizationContext:
    """What a backend may use beside model, images and bits.

    space: the pixels the model takes, whose box is the range of every image, known without seeing one.
    """

    generator: torch.Generator
    space: ImageSpace
    report: Report = silent


class Backend(ABC):
    """A way to quantize a model with given calibration images."""

    name: ClassVar[str]
    version: ClassVar[int]
    paper: ClassVar[str]
    config_class: ClassVar[type]
    inferred: ClassVar[str] = ""
    space: ClassVar[dict[str, dict[str, Any]]] = {}
    only_bits: ClassVar[tuple[str, ...]] = ()
    """The only bits it can quantize to, as text; empty: any."""

    short: ClassVar[dict[str, Any]] = {}
    """Settings of a short run, over the defaults, for models that ask for one (the embedded ones)."""

    def default_config(self, model: str) -> Any:
        """Return the default config of a full run for a model's name."""
        return self.config_class()

    def takes_formats(self, config: Any) -> bool:
        """Whether it can quantize to number formats that are no integers (`methods.quant.recipe`) with a config."""
        return False

    def check(self, model: nn.Module, config: Any) -> None:  # noqa: B027 - most backends work on any model
        """Raise UsageError when the backend cannot quantize a model; asked while planning, before anything runs."""

    @abstractmethod
    def image_passes(self, config: Any, images: int) -> float:
        """Return the number of forward+backward passes of one image that a quantization takes, for estimates."""

    @abstractmethod
    def quantize(
        self, model: nn.Module, images: Tensor, bits: Bits, config: Any, context: QuantizationContext
    ) -> nn.Module:
        """Return a quantized copy of `model`, calibrated on `images` [n, C, H, W]; `model` is left as it is."""
