"""The record: what a finished or failed cell leaves behind, the only source of every table.

`record.schema.json` is made from these types and the comments above their fields (`python -m harness.record.schema`).
Fields that are not listed here are welcome in a file and passed over. A field with a default is absent from records
that are older than it, or of cells that have no such thing; every other field is required.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from harness.record.cells import BitsWord, Cell, Count, Identity, Name, Sha256, cell_key, synthesis_key

SCHEMA: Literal[1] = 1

Percent: TypeAlias = Annotated[float, Meta(ge=0, le=100)]
Cost: TypeAlias = Annotated[float, Meta(ge=0)]


class Config(Struct, frozen=True):
    """All effective settings, the defaults too."""

    # The method's, by name.
    method: dict[str, Any]
    # The backend's, by name.
    backend: dict[str, Any]


class Versions(Struct, frozen=True):
    """Of what a result may depend on."""

    # The method's; it changes whenever the method's results do.
    method: int
    # The backend's, alike.
    backend: int
    # Version of Python and of every library, by name.
    libraries: dict[str, str]


class UsedWeights(Struct, frozen=True, omit_defaults=True):
    """The model's weights."""

    # Tag of the pretrained weights; of a checkpoint of one's own, its architecture and the name of its file.
    tag: str
    # Checksum of their file; of a checkpoint of one's own, of it together with what is said of its input and classes.
    sha256: str
    # How many parameters the model has.
    parameters: Count | None = None
    # What was done for the file to fit the model: tensors resampled to another image size, renamed or left out.
    adapted: tuple[str, ...] = ()


class Provenance(Struct, frozen=True, omit_defaults=True):
    """Where a record comes from; never a host's name."""

    # This project's commit, "+changes" when the tree differed from it; null outside git.
    commit: str | None
    # The command as typed, folders reduced to their last part.
    command: str
    # When the record was made, ISO 8601.
    time: str
    # "cpu" or "cuda".
    device: str
    # The processor's model.
    processor: str
    # How many processors the machine has; null where unknown.
    cores: int | None
    # How many threads the trial used.
    threads: int
    # "local" or "ray".
    executor: str
    # When the command was started, ISO 8601.
    started: str | None = None
    # Checksum of every plugin's file, by its name.
    plugins: dict[str, str] | None = None


class Metrics(Struct, frozen=True, omit_defaults=True):
    """How good the quantized model is; what only a classifier has is null for a backbone without one."""

    # Top-1 accuracy in percent; null without labels.
    top1: Percent | None
    # Top-5 accuracy in percent; null without labels.
    top5: Percent | None
    # Binomial standard error of top1, in points; null without labels.
    stderr: Cost | None
    # How many images it was evaluated on.
    n: Count
    # Top-1 accuracy in percent of the FP32 model on the same images; null without labels.
    fp32_top1: Percent | None
    # Share in percent of the images on which the quantized and the FP32 model name the same class.
    agreement: Percent | None
    # Mean KL divergence of the FP32 distribution from the quantized one, in nats; null when not finite.
    kl: float | None
    # Backbones alone: mean cosine of a pooled feature with the FP32 model's for the same image.
    cosine: Annotated[float, Meta(ge=-1, le=1)] | None = None
    # Backbones alone: share in percent of images whose nearest other image, by its feature, is of their class; absent
    # without labels.
    knn: Percent | None = None
    # The same share of the FP32 model.
    fp32_knn: Percent | None = None


class Stage(Struct, frozen=True):
    """What a stage took."""

    # Wall-clock seconds.
    seconds: Cost
    # Peak memory in MiB, of the process or of the GPU; null where unknown.
    peak_mb: Cost | None
    # Whether the work was done for another cell, and only its result read here.
    cached: bool


class Stages(Struct, frozen=True):
    """The stages of a cell."""

    # Making the images.
    synthesize: Stage
    # Quantizing the model with them.
    quantize: Stage
    # Running the quantized model on all images.
    evaluate: Stage


class Operation(Struct, frozen=True, gc=False):
    """One tensor that is quantized."""

    # The layer, and which of its tensors.
    operation: str
    # What quantizes it, in words.
    quantizer: str
    # With how many bits.
    bits: Count


class Costs(Struct, frozen=True):
    """Of the quantized model as real integers."""

    # Parameters at their bits, each tensor filled up to whole bytes; scales, zero points and offsets at 32 bits.
    size_bytes: Count
    # Multiply-accumulates of all matrix products of one image.
    macs: Count
    # Their sum, each times the bits of both operands, 32 for floating point.
    bitops: Count


class LayerBits(Struct, frozen=True):
    """Mixed precision."""

    # The bits of what no pattern fits.
    default: BitsWord
    # Pairs of a pattern and bits; the last one that fits a layer counts.
    patterns: Annotated[tuple[tuple[str, BitsWord], ...], Meta(min_length=1)]
    # The bits they give every layer and attention module.
    layers: dict[str, BitsWord]


class Record(Struct, frozen=True, kw_only=True, tag_field="status", omit_defaults=True):
    """What records of finished and failed cells share."""

    # The version of this description.
    schema: Literal[1]
    # sha256 of the canonical JSON of cell and identity (versions of method and backend, checksum of the weights).
    key: Sha256
    # What was measured.
    cell: Cell
    # All effective settings.
    config: Config
    # Of the method, the backend and the libraries.
    versions: Versions
    # Of the model.
    weights: UsedWeights
    # Random weights: the figures say nothing about accuracy.
    meaningless: bool
    # Quantized values were computed in floating point.
    simulated: bool
    # Where the record comes from.
    provenance: Provenance
    # The seal, the last field in the file: sha256 of the text before it.
    sha256: Sha256 | None = None

    @property
    def identity(self) -> Identity:
        """What the result depends on beside the cell."""
        return Identity(self.versions.method, self.versions.backend, self.weights.sha256)

    def cell_key(self) -> str:
        """Return the key that follows from what the record holds."""
        return cell_key(self.cell, self.identity)

    def synthesis_key(self) -> str:
        """Return the key of the images the cell was quantized with."""
        return synthesis_key(self.cell, self.identity)


class Latency(Struct, frozen=True):
    """How long one pass takes, the quantized and the FP32 file in turns on one runtime."""

    # Images at once.
    batch: Count
    # Threads of the runtime.
    threads: Count
    # Median milliseconds of the quantized file.
    ms: Cost
    # Median milliseconds of the FP32 file.
    fp32_ms: Cost


class Ran(Struct, frozen=True, omit_defaults=True):
    """What an exported file did on one runtime."""

    # Share of right answers in percent; null without labels.
    top1: Percent | None
    # Share of images on which it answers as the simulated model does, in percent.
    agreement: Percent
    # Largest difference of a logit from the simulated model's.
    largest_difference: Cost
    # Version of the runtime; empty for torch, which the record names among the libraries.
    version: str = ""
    # Measured times; none where the file is not made for speed.
    latencies: tuple[Latency, ...] = ()


class Deployed(Struct, frozen=True, omit_defaults=True):
    """The quantized model as a file, run where it was written."""

    # Size of the file.
    bytes: Count
    # Whether uniform quantizers took the place of others that the format cannot say.
    uniform: bool
    # Top-1 in percent of the simulated model the file was made of; null without labels.
    simulated_top1: Percent | None
    # What it did, by runtime.
    runtimes: dict[str, Ran]
    # Size of the FP32 file of the same format; absent where none was made.
    fp32_bytes: Count | None = None


class Finished(Record, frozen=True, kw_only=True, tag="ok", omit_defaults=True):
    """The record of a cell that was measured."""

    # How good the quantized model is.
    metrics: Metrics
    # What each stage took.
    stages: Stages
    # What is quantized, how, and with how many bits.
    quantized_ops: tuple[Operation, ...]
    # Checksum of the images quantized with.
    images_sha256: Sha256 | None
    # Checksum of the quantized model's logits.
    logits_sha256: Sha256 | None
    # Per-image correctness, as `correctness.pack` writes it; null without labels.
    correct_bits: str | None
    # Size and operations of the quantized model.
    costs: Costs | None = None
    # Mixed precision alone: the bits of every layer.
    layer_bits: LayerBits | None = None
    # Exported files, by format; absent where none was made.
    deployed: dict[str, Deployed] | None = None
    # How many images were left out, by the reason: they cannot be read (--skip-bad-images), or have no label; absent
    # when none was.
    left_out: dict[str, Count] | None = None
    # Nothing went wrong.
    error: None


class Failed(Record, frozen=True, kw_only=True, tag="failed", omit_defaults=True):
    """The record of a cell that went wrong."""

    # What went wrong, in one line.
    error: Name
    # Where, as Python prints it.
    traceback: str = ""
