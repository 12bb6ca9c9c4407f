"""Model sizes: how many parameters a model has, and how many megabytes they take at some bits."""

from __future__ import annotations

import re

# Of the zoo's models, for records that do not say it themselves; a test counts them again.
PARAMETERS = {
    "vit_digits": 308_042,
    "swin_digits": 567_046,
    "deit_t": 5_717_416,
    "deit_s": 22_050_664,
    "deit_b": 86_567_656,
    "vit_t": 5_717_416,
    "vit_s": 22_050_664,
    "vit_b": 86_567_656,
    "swin_t": 28_288_354,
    "swin_s": 49_606_258,
    "swin_b": 87_768_224,
}


def megabytes(model: str, bits: str, parameters: int | None = None) -> float | None:
    """Return the size of all parameters at the weights' bit-width, in MB of 10^6 bytes; None where unknown.

    Norms, biases and scales, which stay in floating point, are counted at the same width: less than a percent.
    """
    count = parameters or PARAMETERS.get(model)
    width = re.match(r"w(\d+)", bits)
    return None if count is None or width is None else count * int(width[1]) / 8e6
