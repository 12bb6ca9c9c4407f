"""The static site and the pictures that are committed: what they hold, where links lead, what is left out."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from urllib.parse import urldefrag

import numpy as np
import pytest
import torch
from harness_kit import correct, make_fields, make_record, put, run_leaderboard
from PIL import Image
from test_html import HOSTILE, Tags, results

from harness.record.cache import Cache, sheet_path
from harness.record.studies import Study
from harness.report.formats.payload import short_key
from harness.report.formats.pictures import compressed, side_by_side
from harness.report.formats.site import described, standings
from harness.report.runs import runs
from harness.report.syntheses import LARGEST, pictures


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of six runs, one of whose methods has a hostile name."""
    folder = tmp_path_factory.mktemp("site")
    done = run_leaderboard(results(folder / "results"), "--format", "site", "--out", str(folder / "out"))
    assert (done.code, done.err) == (0, "")
    return folder / "out"


def test_every_model_and_method_has_a_page_and_every_link_leads_somewhere(site: Path) -> None:
    pages = {path.relative_to(site).as_posix(): Tags(path.read_text()).found for path in site.rglob("*.html")}
    assert len(pages) == 1 + 2 + 3
    assert {"index.html", "models/deit_t.html", "models/vit_s.html", "methods/alpha.html"} <= set(pages)
    ids = {path: {values["id"] for _, values in tags if "id" in values} for path, tags in pages.items()}
    for path, tags in pages.items():
        for link in (str(values["href"]) for tag, values in tags if tag == "a"):
            target, part = urldefrag(link)
            reached = ((site / path).parent / target).resolve().relative_to(site).as_posix() if target else path
            assert reached in pages, (path, link)
            assert not part or part.startswith("r=") or part in ids[reached], (path, link)


def test_a_hostile_name_is_text_and_names_no_file(site: Path) -> None:
    for path in site.rglob("*.html"):
        tags = Tags(path.read_text()).found
        assert not any(name.startswith("on") for _, values in tags for name in values)
        assert "<script>alert" not in path.read_text()
    assert [path.stem for path in (site / "methods").iterdir() if len(path.stem) == 16 and path.stem.isalnum()]
    assert any("&lt;script&gt;alert(1)" in path.read_text() for path in (site / "methods").iterdir())


def test_a_method_s_page_says_where_it_stands_with_links_to_its_records(site: Path) -> None:
    assert "Heat strip of deit_t" in (site / "models" / "deit_t.html").read_text()
    assert "Heat strip" not in (site / "models" / "vit_s.html").read_text()
    text = " ".join((site / "methods" / "beta.html").read_text().split())
    assert "3 of 3" in text
    key = make_record("", model="deit_t", method="beta", hits=correct(100, 60)).key
    fields = make_fields("", model="deit_t", method="beta", hits=correct(100, 60), fp32=95.0)
    assert f"../index.html#r={short_key(str(fields['key']) or key)}" in text
    assert '<a href="../models/deit_t.html">deit_t</a>' in text


def test_standings_by_hand() -> None:
    figures = {("a", "minmax"): 50.0, ("a", "other"): 70.0, ("b", "minmax"): 60.0, ("c", "minmax"): 10.0}
    records = [make_record(f"{m}{b}", method=m, backend=b, top1=top1) for (m, b), top1 in figures.items()]
    other = make_record("x", method="b", bits="w8a8", top1=1.0)
    keys = [record.key for record in (*records, other)]
    searched = Study(Path("s"), "search", "s", [make_record("s", method="s", top1=99.0)])
    found = standings(runs([Study(Path("c"), "comparison", "c", [*records, other]), searched], [*keys, "s"]))
    told = {
        name: [(s.run.first.backend, s.run.first.bits, s.rank, s.among) for s in mine] for name, mine in found.items()
    }
    assert told == {
        "a": [("other", "w4a4", 1, 3)],
        "b": [("minmax", "w4a4", 2, 3), ("minmax", "w8a8", 1, 1)],
        "c": [("minmax", "w4a4", 3, 3)],
    }


def test_a_method_is_described_by_its_own_file() -> None:
    found = dict(described("psaq_vit"))
    assert found["paper"] == "PSAQ-ViT (ECCV 2022)"
    assert "ECCV 2022" in found["in words"]
    assert described(HOSTILE) == []


def sheet(folder: Path, method: str, width: int, colour: str) -> None:
    """Leave a cell and the contact sheet of its synthesis."""
    record = make_record("", model="vit_s", method=method, overrides={f"{method}.images": 8})
    put(folder, make_fields("", model="vit_s", method=method, overrides={f"{method}.images": 8}))
    cache = Cache.of(folder, "synthesis")
    losses = {"tv": [1.23456, 0.5, float(len(method))]}
    cache.store(record.synthesis_key(), {"images": torch.zeros(1)}, {"losses": losses})
    path = sheet_path(folder, "vit_s", method, 0, record.synthesis_key())
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (width, 400), colour).save(path)


def test_pictures_are_made_from_a_cache_and_shown_without_it(tmp_path: Path) -> None:
    for method, width, colour in (("small", 100, "red"), ("wide", 300, "lime"), ("third", 100, "blue")):
        sheet(tmp_path / "run", method, width, colour)
    done = run_leaderboard(str(tmp_path / "run"), "--format", "pictures", "--out", str(tmp_path / "kept"))
    assert (done.code, done.err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["images_vit_s.json", "images_vit_s.webp"]
    [picture] = pictures([tmp_path / "kept"])
    assert picture.model == "vit_s"
    assert list(picture.methods) == ["wide", "small", "third"]  # the widest first, then by name
    assert picture.methods["small"].losses == {"tv": [1.235, 0.5, 5.0]}
    assert picture.methods["small"].settings == "small.images=8"
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.source.partition(",")[2]))).convert("RGB"))
    line = round(364 * 0.6) + 18 + 8
    assert image.shape == (2 * line - 8, 180, 3)
    for (x, y), channel in {(90, 100): 1, (30, line + 100): 0, (90, line + 100): 2}.items():
        assert image[y, x].argmax() == channel


def test_sheets_wrap_under_the_widest_and_stay_below_the_limit() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (36, 66, 3), np.uint8)
    sheets = {str(number): Image.fromarray(noise) for number in range(3)}
    assert side_by_side({**sheets, "wide": Image.new("RGB", (140, 50))}).size == (
        140,
        2 * (18 + 36) + 8 + 18 + 50 + 8,
    )
    assert 0 < len(compressed(sheets["0"], 900)) <= 900


def test_a_picture_that_is_too_large_damaged_or_undescribed_is_passed_over(tmp_path: Path) -> None:
    about = {"model": "m", "methods": {"a": {"seed": 0, "settings": "", "losses": {"tv": [1.0, "x"]}}}}
    for name in ("good", "damaged", "large", "undescribed", "odd"):
        Image.new("RGB", (4, 4)).save(tmp_path / f"images_{name}.webp")
        (tmp_path / f"images_{name}.json").write_text(json.dumps(about))
    (tmp_path / "images_damaged.webp").write_bytes(b"RIFF")
    (tmp_path / "images_large.webp").write_bytes((tmp_path / "images_large.webp").read_bytes() + b"\0" * LARGEST)
    (tmp_path / "images_undescribed.json").unlink()
    (tmp_path / "images_odd.json").write_text('{"model": "m", "methods": [1]}')
    [picture] = pictures([tmp_path])
    assert picture.methods["a"].losses == {}


def test_where_no_cache_has_a_sheet_the_sentence_says_so(tmp_path: Path) -> None:
    put(tmp_path / "run", make_fields("", model="vit_s"))
    done = run_leaderboard(str(tmp_path / "run"), "--format", "pictures", "--out", str(tmp_path / "kept"))
    assert done.code == 2
    assert "No results folder holds contact sheets" in done.err
    assert not (tmp_path / "kept").exists()
