"""The perf command: the bare floor over just the batches a step used, medians, the ideal list schedule by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from harness_kit import make_record, run_here
from msgspec.structs import replace
from torch import Tensor, nn

from harness.inputs import plugins as catalog
from harness.inputs.weights import find_weights, load_model
from harness.inputs.zoo import ENTRIES
from harness.perf import __main__ as perf
from harness.perf import evaluation as evaluation_timer
from harness.perf import steps
from harness.perf.evaluation import time_evaluation
from harness.perf.scheduling import list_schedule, schedule_of
from harness.perf.steps import StepTimer
from harness.record.record import Record, Stage, Stages
from methods.bits import Bits
from methods.quant.quantizers.base import Quantizer
from methods.registry import BACKENDS

catalog.load()


class Counting(nn.Module):
    """Adds up pixels and remembers the batch sizes it saw, with and without gradients to the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((len(x), x.is_leaf and x.requires_grad))
        return x.sum(dim=(1, 2, 3))


def test_the_floor_repeats_the_batches_of_the_step() -> None:
    model = Counting()
    timer = StepTimer(model, (3, 4, 4), torch.device("cpu"))
    for batches in ([5, 2], [3]):
        for count in batches:
            model(torch.zeros(count, 3, 4, 4))
        timer.report(1, 2)
    assert model.seen == [(5, False), (2, False), (5, True), (2, True), (3, False), (3, True)]
    assert timer.views == 3


def test_medians_leave_out_the_warm_up() -> None:
    timer = StepTimer(Counting(), (3, 4, 4), torch.device("cpu"))
    timer.steps = [(99.0, 1.0), (2.0, 1.0), (3.0, 2.0), (8.0, 2.0)]
    assert timer.medians() == (3.0, 2.0, 2.0)


def test_the_command_prints_and_writes_one_line_per_model(tmp_path: Path) -> None:
    out = tmp_path / "perf.md"
    words = ["--models", "vit_digits,swin_digits", "--images", "2", "--steps", "1", "--out", str(out)]
    outcome = run_here(perf.main, words)
    assert outcome.code == 0, outcome.err
    lines = out.read_text().splitlines()
    assert lines[2] == f"| {' | '.join(steps.COLUMNS)} |"
    names = [line.split("|")[1].strip() for line in lines[4:6]]
    assert names == ["vit_digits spdfq fp32", "swin_digits spdfq fp32"]
    for line in lines[4:6]:
        step, floor, ratio = (float(word) for word in line.split("|")[3:6])
        low, high = (
            (step - 5e-4) / (floor + 5e-4),
            (step + 5e-4) / (floor - 5e-4),
        )  # both are printed to the millisecond
        assert low - 0.005 <= ratio <= high + 0.005


def test_full_size_is_the_passes_of_all_settings_at_the_seconds_per_view(tmp_path: Path) -> None:
    out = tmp_path / "perf.md"
    words = ["--models", "vit_digits", "--images", "2", "--steps", "1", "--out", str(out)]
    words += [
        "--set",
        "spdfq.images=2",
        "--set",
        "spdfq.msr=false",
        "--set",
        "spdfq.iterations=60000",
        "--precision",
        "fp32,bf16",
    ]
    outcome = run_here(perf.main, words)
    assert outcome.code == 0, outcome.err
    lines = [line.split("|") for line in out.read_text().splitlines()[4:6]]
    assert [line[1].split()[-1] for line in lines] == ["fp32", "bf16"]
    for line in lines:
        assert line[2].strip() == "2"
        assert abs(float(line[7]) - float(line[3]) * 1000) <= 0.6  # printed to the millisecond


def test_the_floor_is_run_in_the_precision_of_the_step() -> None:
    kinds: list[torch.dtype] = []

    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            kinds.append((x.flatten(1) @ torch.ones(48, 1)).dtype)
            return x.sum(dim=(1, 2, 3))

    for precision in ("fp32", "bf16"):
        timer = StepTimer(Product(), (3, 4, 4), torch.device("cpu"), precision)
        timer.batches = [2]
        timer.report(1, 1)
    assert kinds == [torch.float32, torch.bfloat16]


def test_methods_without_steps_and_unknown_precisions_are_refused() -> None:
    for words, sentence in (
        (["--methods", "noise"], "takes no steps|no effect"),
        (["--precision", "fp16"], "fp16"),
    ):
        outcome = run_here(perf.main, ["--models", "vit_digits", *words])
        assert outcome.code == 2
        assert any(part in outcome.err for part in sentence.split("|")), outcome.err


def test_evaluation_is_timed_against_the_model_with_unfused_attention(tmp_path: Path) -> None:
    out = tmp_path / "perf.md"
    words = ["--models", "vit_digits", "--backends", "minmax,repq", "--bits", "w8a8,w32a32", "--images", "2"]
    outcome = run_here(perf.main, [*words, "--steps", "3", "--out", str(out)])
    assert outcome.code == 0, outcome.err
    lines = [[word.strip() for word in line.split("|")[1:-1]] for line in out.read_text().splitlines()[4:8]]
    names = [f"vit_digits {backend} {bits}" for backend in ("minmax", "repq") for bits in ("w8a8", "w32a32")]
    assert [line[0] for line in lines] == names
    assert all(float(word) >= 0 for line in lines for word in line[1:])


def test_passes_take_turns_and_the_first_of_each_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([9.0, 9.0, 1.0, 2.0, 2.0, 3.0, 4.0, 20.0])
    seen: list[bool] = []

    def timed(model: nn.Module, images: Tensor) -> float:
        seen.append(any(isinstance(module, Quantizer) for module in model.modules()))
        return next(seconds)

    monkeypatch.setattr(evaluation_timer, "_pass", timed)
    model = load_model(ENTRIES["vit_digits"], find_weights(ENTRIES["vit_digits"], None))
    backend = BACKENDS.get("minmax")
    images = torch.randn((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    times = time_evaluation(model, backend, backend.config_class(), Bits(8, 8), images, batch=2, repeats=3)
    assert seen == [False, True] * 4
    assert (times.float_pass, times.quantized_pass, times.ratio) == (2.0, 3.0, 2.0)


@pytest.mark.parametrize(
    ("rows", "workers", "expected"),
    [
        ([], 2, 0.0),
        ([(3.0, [2.0, 1.0])], 1, 6.0),  # one after the other
        ([(3.0, [2.0, 1.0])], 2, 5.0),  # both cells wait for the synthesis
        ([(1.0, []), (1.0, []), (5.0, [])], 2, 5.0),  # the largest first
        ([(1.0, [6.0]), (2.0, [1.0]), (2.0, [1.0])], 2, 7.0),  # short synthesis, long way: it must not wait
    ],
)
def test_list_schedule(rows: list[tuple[float, list[float]]], workers: int, expected: float) -> None:
    assert list_schedule(rows, workers) == pytest.approx(expected)


def recorded(method: str, bits: str, seed: int, end: str, cached: bool = False) -> Record:
    record, stage = make_record("k", method=method, bits=bits, seed=seed), Stage(2.0, 1.0, cached=False)
    stages = Stages(Stage(2.0, 1.0, cached), stage, stage)
    when = {"started": "2026-01-01T00:00:00+00:00", "time": f"2026-01-01T00:00:{end}+00:00"}
    return replace(record, stages=stages, provenance=replace(record.provenance, **when))


def test_syntheses_are_counted_from_records_and_time_is_held_against_the_schedule() -> None:
    records = [recorded("a", bits, seed, "30") for bits in ("w4a4", "w8a8") for seed in (0, 1)]
    records.append(recorded("b", "w4a4", 0, "50"))
    # on one worker: three syntheses of 2 s and five cells of 4 s
    assert list(schedule_of(records, 1)) == [
        "5 cells, 3 syntheses: a 2, b 1.",
        "Ideal list schedule on 1 workers, nothing but the stages: 26.0 s.",
        "From the command's start to the last record: 50 s, 1.92 of the ideal.",
    ]


def test_records_of_several_runs_have_no_time() -> None:
    assert "not known" in list(schedule_of([recorded("a", "w4a4", 0, "30", cached=True)], 1))[-1]
