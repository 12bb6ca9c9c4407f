"""Every guide of docs/ is run as its reader would; what is committed names no folder of a machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from harness_kit import ROOT, TINY, correct, make_fields, put, records_of, run_bench, run_here
from timm.models.vision_transformer_sam import VisionTransformerSAM
from tiny_models import randomized

from harness import bench, fill, leaderboard
from harness.cli.config import parse
from harness.cli.options import Matrix
from harness.inputs import plugins
from harness.inputs.named_models import select_models
from harness.plan.mixed_bits import read_bits
from harness.plan.settings import read_overrides
from harness.report.formats import FORMATS
from methods.bits import Bits
from methods.contracts import ImageSpace
from methods.errors import UsageError
from methods.models import family
from methods.models.architecture import attention_sites, reconstruction_units
from methods.quant.insert import insert_quantizers
from methods.quant.operations import describe
from methods.quant.recipe import MIN_MAX
from methods.registry import BACKENDS, METHODS

DOCS = ROOT / "docs"


@pytest.fixture(autouse=True)
def registries_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins.load()
    for registry in (BACKENDS, FORMATS):
        monkeypatch.setattr(registry, "_targets", dict(registry._targets))


def section(title: str) -> str:
    """Return what docs/adding.md says under a heading."""
    return (DOCS / "adding.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def example(title: str, path: Path) -> Path:
    """Write the code of a section as its reader would."""
    path.write_text(section(title).partition("```python\n")[2].partition("```")[0])
    return path


def line(title: str, start: str) -> str:
    """Return the one line a section has its reader add."""
    [found] = [text.strip() for text in section(title).splitlines() if text.strip().startswith(start)]
    return found


def test_a_backend_is_one_file(tmp_path: Path) -> None:
    plugin = example("A backend", tmp_path / "top_heavy.py")
    words = ["--methods", "noise", "--set", "noise.images=2", "--backends", "top_heavy", "--plugin", str(plugin)]
    words += ["--set", "top_heavy.head_bits=6", "--bits", "w4a4", "--limit", "10"]
    outcome = run_bench(tmp_path / "results", *TINY, *words)
    assert outcome.code == 0, outcome.err
    [record] = records_of(tmp_path / "results").values()
    bits = {row["operation"]: row["bits"] for row in record["quantized_ops"]}
    assert (bits["head weight"], bits["head input"], bits["blocks.0.mlp.fc1 weight"]) == (6, 6, 4)


@pytest.fixture
def stub_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The guide's family: its file where Python finds it, its line in FAMILIES."""
    example("A model", tmp_path / "sam.py")
    name, _, place = line("A model", '"sam":').rstrip(",").partition(": ")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(family.FAMILIES, name.strip('"'), place.strip('"').removeprefix("methods.models."))
    family.families.cache_clear()
    yield
    family.families.cache_clear()


def samvit() -> VisionTransformerSAM:
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    model: VisionTransformerSAM = randomized(VisionTransformerSAM(**size, num_classes=4, window_size=0, neck_chans=0))
    return model


def test_without_its_family_a_model_is_refused() -> None:
    with pytest.raises(UsageError, match="belongs to no family"):
        family.family_of(samvit())


def test_a_family_is_one_file_and_one_line(stub_family: None) -> None:
    model = samvit()
    assert family.family_of(model).name == "SAM's ViT"
    assert [(site.grid, site.depth) for site in attention_sites(model)] == [((4, 4), 1), ((4, 4), 2)]
    assert [name for name, _ in reconstruction_units(model)] == ["patch_embed", "blocks.0", "blocks.1", "head.fc"]
    quantized = insert_quantizers(model, Bits(4, 6), MIN_MAX, ImageSpace(32, 32, (0.5,) * 3, (0.5,) * 3))
    bits = {str(row["operation"]): row["bits"] for row in describe(quantized)}
    assert bits["patch_embed.proj input"] == 8  # the image
    products = [f"blocks.{block}.attn 0 {side}" for block in (0, 1) for side in ("query", "key", "softmax", "value")]
    assert {bits[name] for name in products} == {6}
    assert {bit for name, bit in bits.items() if name.endswith("weight")} == {4}


def test_a_format_is_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example("An output format", tmp_path / "org.py")
    monkeypatch.syspath_prepend(tmp_path)
    added = line("An output format", "FORMATS.register").replace("harness.report.formats.org", "org")
    exec(added, {"FORMATS": FORMATS})
    put(tmp_path / "results", make_fields("", hits=correct(100, 60)))
    done = run_here(leaderboard.main, [str(tmp_path / "results"), "--format", "org"])
    assert done.code == 0, done.err
    assert done.out.startswith(
        "* Top-1, % - val, n = 100\n| method + backend | vit_x w4a4 | kept, % |\n| FP32 | 80.00 |"
    )
    assert "| noise + minmax | 60.00 | 75.0 |\n" in done.out


def test_the_tables_of_methods_and_backends_are_what_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (DOCS / "methods.md").read_text()
    assert fill.filled(text) == text


@pytest.mark.parametrize(
    "file", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("results/**/README.md"))]
)
def test_tables_are_what_their_records_give(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / file).read_text()
    assert fill.filled(text) == text


STUDIES = sorted(ROOT.glob("results/*/study.toml"))


@pytest.mark.parametrize("path", STUDIES, ids=[path.parent.name for path in STUDIES])
def test_every_study_names_models_methods_bits_and_settings_that_are(path: Path) -> None:
    for run in parse(bench.parser(), ["--config", str(path)], study=True):
        matrix = Matrix.of(vars(run))
        assert select_models(matrix.models)
        assert set(matrix.methods) <= set(METHODS.names()) and set(matrix.backends) <= set(BACKENDS.names())
        assert [read_bits(word) for word in matrix.bits] and all(map(str.isdecimal, matrix.seeds))
        assert set(read_overrides(run.tables, run.set)) <= {*matrix.methods, *matrix.backends}


def test_a_study_planned_again_is_all_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("DFQ_DATA", "DFQ_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    done = run_here(bench.main, ["--config", "results/digits/study.toml", "--plan"])
    assert done.code == 0, done.err
    assert "12 cells, 12 recorded; 0 syntheses and 0 cells to run." in done.out


def test_a_table_that_is_behind_is_told_and_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: results/equal_passes --filter backend=erq -->\nold\n<!-- end -->\nafter\n")
    told = run_here(fill.main, [str(page), "--check"])
    assert (told.code, "-old\n" in told.out) == (1, True)
    assert run_here(fill.main, [str(page)]).code == 0
    assert run_here(fill.main, [str(page), "--check"]).code == 0
    lines = page.read_text().splitlines()
    assert (lines[0], lines[2], lines[-2:]) == ("before", "### Top-1, % - val, n = 891", ["<!-- end -->", "after"])
    page.write_text("<!-- tabel: results -->\n<!-- end -->")
    assert "Did you mean 'table'?" in run_here(fill.main, [str(page)]).err


_FOLDERS = "tmp|work|workspace|root|home|mnt|media|opt|var|srv|data|private|scratch|Users"
_ABSOLUTE = re.compile(rf"(?<![\w.~:/$)}}>-])/(?:{_FOLDERS})/[\w.-]+")


def committed() -> Iterator[tuple[str, str]]:
    """Yield name and text of every file under version control that is text."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            yield name, content.decode()


@pytest.mark.parametrize(
    "text", ["| spdfq | 72.39 | /t" + "mp/study/n | |", '"path": "/h' + 'ome/me/images"', "(/w" + "ork/x)"]
)
def test_an_absolute_path_is_seen(text: str) -> None:
    assert _ABSOLUTE.search(text)


@pytest.mark.parametrize("text", ["https://example.org/data/x", "../data/x", "results/tmp/x", "$PWD/data/x", "2/3"])
def test_what_is_relative_is_not(text: str) -> None:
    assert not _ABSOLUTE.search(text)


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a checkout: what is committed is unknown"
)
def test_no_committed_text_holds_an_absolute_path() -> None:
    assert [(name, match.group()) for name, text in committed() for match in _ABSOLUTE.finditer(text)] == []
