"""The HTML page: what it holds, that nothing in a record becomes markup, and how it behaves in a real browser."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import PROVENANCE, correct, make_fields, make_record, put, run_leaderboard
from PIL import Image

from harness.inputs.zoo import PARAMETERS
from harness.record.cache import Cache
from harness.report.formats.plots import Point, by_cost, curve
from harness.report.measurements import megabytes
from harness.report.statistics import front
from harness.report.syntheses import find_synthesis
from methods.bits import Bits

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


def until(tab: Any, expression: str, argument: Any = None) -> None:
    """Wait until a JavaScript expression holds; polled from here, as the page forbids the driver to do it there."""
    deadline = time.monotonic() + 30
    while not tab.evaluate(expression, argument):
        assert time.monotonic() < deadline, expression
        time.sleep(0.05)


def results(folder: Path) -> str:
    for number, (method, hits) in enumerate((("alpha", 90), ("beta", 60), (HOSTILE, 75))):
        for model in ("deit_t", "vit_s"):
            record = make_fields("", model=model, method=method, hits=correct(100, hits), fp32=95.0)
            record["stages"]["synthesize"] = {"seconds": 10.0 * (number + 1), "peak_mb": 1.0, "cached": False}
            record["config"] = {"method": {HOSTILE: HOSTILE}, "backend": {}}
            record["provenance"] = {**PROVENANCE, "command": f"python -m harness.bench {HOSTILE}"}
            put(folder, {**record, "quantized_ops": [{"operation": HOSTILE, "quantizer": "uniform", "bits": 4}]})
    sheet = make_record("", model="deit_t", method="alpha").synthesis_key()
    cache = Cache.of(folder, "synthesis")
    cache.store(sheet, {"images": torch.zeros(1)}, {"losses": {"total": [3.0, 2.0, 1.0], "short": [1.0]}})
    Image.new("RGB", (2000, 100), "red").save(cache.path(sheet).with_suffix(".png"))
    return str(folder)


def made(folder: Path) -> Path:
    done = run_leaderboard(results(folder / "results"), "--format", "html", "--out", str(folder / "out"))
    assert (done.code, done.err) == (0, "")
    return folder / "out" / "index.html"


class Tags(HTMLParser):
    """Collects tags with their attributes, and ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_nothing_in_a_record_becomes_markup_and_nothing_is_fetched(tmp_path: Path) -> None:
    text = made(tmp_path).read_text()
    tags = Tags(text).found
    assert sum(tag == "script" for tag, _ in tags) == 1
    assert [attributes["src"][:23] for tag, attributes in tags if tag == "img" and attributes["src"]] == [
        "data:image/jpeg;base64,"
    ]
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert "&lt;script&gt;alert(1)" in text


def test_links_lead_somewhere_and_ids_are_unique(tmp_path: Path) -> None:
    tags = Tags(made(tmp_path).read_text()).found
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in tags if tag == "a" and attributes.get("href")]
    assert len(links) > 10
    assert {str(link)[1:] for link in links} <= set(ids)


def test_details_hold_what_a_record_says(tmp_path: Path) -> None:
    text = made(tmp_path).read_text()
    for words in ("c0ffee", "python -m harness.bench", "1 operations", "Loss total over 3 steps, from 3 to 1"):
        assert words in text
    assert "short" not in text  # one step is no curve


def test_pareto_front_by_hand() -> None:
    points = ((1, 5), (2, 4), (2, 7), (3, 7), (4, 9), (1, 3))
    assert front(points) == [(1, 5), (2, 7), (4, 9)]
    plot = by_cost("t", "s", [Point(1, 5, 0, "", "a"), Point(2, 4, 1, "", "b"), Point(3, 3, 1, "", "b")])
    assert [mark.front for mark in plot.marks] == [True, True, False]


def test_a_scale_of_percentages_ends_at_100() -> None:
    plot = by_cost("t", "s", [Point(1, 88.2, 0, ""), Point(2, 99.8, 0, "")])
    assert [text for _, text in plot.y_ticks] == ["85", "90", "95", "100"]


def test_a_curve_spans_its_box() -> None:
    assert curve([4.0, 2.0, 0.0], 220, 60) == "0.0,0.0 110.0,30.0 220.0,60.0"
    assert curve([1.0, 1.0], 220, 60) == "0.0,60.0 220.0,60.0"
    assert len(curve([float(n) for n in range(1000)]).split()) == 220


def test_sizes_are_parameters_times_width() -> None:
    assert megabytes("deit_t", Bits(4, 8)) == pytest.approx(5_717_416 / 2 / 1e6)
    assert megabytes("other", Bits(8, 8)) is None
    assert megabytes("other", Bits(8, 8), parameters=10**6) == 1.0


_QUICK = ("vit_digits", "swin_digits", "deit_t")


@pytest.mark.parametrize(
    "name", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PARAMETERS]
)
def test_parameters_are_the_models(name: str) -> None:
    import timm

    from harness.inputs.zoo import ENTRIES

    entry = ENTRIES[name]
    with torch.device("meta"):
        model = timm.create_model(entry.tag.partition(".")[0]) if entry.build is None else None
    model = model or entry.build()  # type: ignore[misc]
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_a_damaged_cache_shows_nothing(tmp_path: Path) -> None:
    results(tmp_path)
    record = make_record("", model="deit_t", method="alpha")
    path = Cache.of(tmp_path, "synthesis").path(record.synthesis_key())
    assert find_synthesis(record, [tmp_path]) is not None
    path.write_bytes(b"x" * 20)
    path.with_suffix(".png").write_bytes(b"x")
    assert find_synthesis(record, [tmp_path]) is None


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium: the system's, else Playwright's own; the tests are skipped where there is none."""
    sync = pytest.importorskip("playwright.sync_api", reason="no playwright here")
    with sync.sync_playwright() as driver:
        system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if system is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("no Chromium here: apt-get install chromium, or playwright install chromium")
        started = driver.chromium.launch(executable_path=system, args=["--no-sandbox"])
        yield started
        started.close()


def test_the_page_in_a_browser(browser: Any, tmp_path: Path) -> None:
    path = made(tmp_path)
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on(
        "request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else None
    )
    tab.goto(path.as_uri())

    def column(place: int) -> list[str]:
        cells = tab.locator(f"#measurements tbody tr:not([hidden]) td:nth-child({place})")
        return [text.strip() for text in cells.all_inner_texts()]

    assert tab.inner_text("#count") == "6 of 6 rows"
    button = tab.get_by_role("button", name="top-1, %")
    button.focus()
    tab.keyboard.press("Enter")
    assert column(7) == ["60.00", "60.00", "75.00", "75.00", "90.00", "90.00"]
    button.click()
    assert column(7) == ["90.00", "90.00", "75.00", "75.00", "60.00", "60.00"]
    assert tab.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    tab.get_by_label("Search").fill("BETA")
    assert tab.inner_text("#count") == "2 of 6 rows"
    assert column(4) == ["beta", "beta"]
    tab.get_by_label("Model", exact=True).select_option("vit_s")
    assert tab.inner_text("#count") == "1 of 6 rows"
    tab.get_by_role("button", name="Reset").click()
    until(tab, "document.getElementById('count').textContent === '6 of 6 rows'")
    tab.get_by_label("Method", exact=True).select_option(HOSTILE)
    assert tab.inner_text("#count") == "2 of 6 rows"
    link = tab.locator("#measurements tbody tr:not([hidden]) a").first
    target = str(link.get_attribute("href"))
    assert not tab.locator(target).evaluate("element => element.open")
    link.click()
    until(tab, "target => document.querySelector(target).open", target)
    assert "c0ffee" in tab.inner_text(target)
    tab.locator("#syntheses summary").click()
    until(tab, "[...document.images].every(image => image.complete && image.naturalWidth === 900)")
    assert said == []
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_on_a_telephone(browser: Any, tmp_path: Path, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(made(tmp_path).as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    colors = tab.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    ink, paper = (sum(map(int, re.findall(r"\d+", color)[:3])) for color in colors)
    assert (ink < paper) == (scheme == "light")
    assert abs(ink - paper) > 500
    context.close()
