"""The old place of the shared loop, for plugins written against it; it is in `methods.optimisation` now."""

from methods.optimisation.loop import DivergenceError, LoopSettings, Objective, from_noise, optimize_images
from methods.optimisation.views import Jitter, View

__all__ = ["DivergenceError", "Jitter", "LoopSettings", "Objective", "View", "from_noise", "optimize_images"]
