"""Whatever is typed or stands in a file: exit code 0, or a printable sentence and exit code 2; 2,000 inputs in all."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

import pytest
from harness_kit import Outcome, run_here, save_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import bench, compare, leaderboard
from harness.cli.command import run_command
from harness.cli.config import parse
from harness.inputs.images.layouts import find_images
from harness.plan.mixed_bits import read_bits
from harness.plan.settings import effective_config, read_overrides
from harness.search.space import read_space
from methods.registry import BACKENDS, METHODS
from methods.synthesis.noise import Noise


def many(count: int) -> settings:
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count, derandomize=True, deadline=None, suppress_health_check=quiet)


ODD = [
    "",
    "-1",
    "nan",
    "inf",
    "1e999",
    "9" * 5000,
    "\u00b2",
    "\x1b[2J",
    "\u202e",
    "a" * 5000,
    "~nobody/x",
    "/dev/zero",
    "w4a4",
]
ODD += [
    "w" + "9" * 5000 + "a4",
    "[" * 5000,
    "{" * 2000,
    "'",
    '"',
    "noise.images=" + "9" * 400,
    "noise.images=[[",
    "*",
    "[",
    "..",
    "0",
]
WORD = st.one_of(st.sampled_from(ODD), st.text(max_size=20), st.from_regex(r"w[0-9]{1,3}a[0-9]{1,3}", fullmatch=True))
OPTIONS = ["--models", "--methods", "--backends", "--bits", "--seeds", "--set", "--plugin", "--config", "--precision"]
OPTIONS += [
    "--data",
    "--calib-data",
    "--weights",
    "--limit",
    "--device",
    "--cpus-per-trial",
    "--gpus-per-trial",
    "--timeout",
]
LINES = st.lists(st.tuples(st.sampled_from(OPTIONS), WORD), max_size=3)


def assert_graceful(done: Outcome) -> None:
    assert done.code in (0, 2), done
    assert "Traceback" not in done.out + done.err
    if done.code == 2:
        sentence = done.err.strip().splitlines()[-1]
        assert sentence.isprintable(), sentence
        assert len(sentence) < 21_000, len(sentence)  # argparse repeats what it was given


def graceful(action: Callable[[], object]) -> None:
    assert_graceful(run_here(lambda _words: run_command(lambda: 0 * bool(action())), []))


@many(500)
@given(line=LINES)
def test_command_lines(tmp_path: Path, line: list[tuple[str, str]]) -> None:
    words = [f"{option}={word}" for option, word in line]
    common = [
        "--plan",
        "--executor",
        "local",
        "--results",
        str(tmp_path / "r"),
        "--limit",
        "4",
        "--models",
        "vit_digits",
    ]
    assert_graceful(run_here(bench.main, [*common, "--methods", "noise", "--backends", "minmax", *words]))
    assert not (tmp_path / "r").exists()


@many(100)
@given(a=WORD, b=WORD)
def test_the_commands_that_read_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a: str, b: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert_graceful(run_here(compare.main, ["--", a, b]))
    assert_graceful(run_here(leaderboard.main, [f"--metric={a}", f"--filter={b}", "--", a]))


KEY = st.one_of(
    st.sampled_from(["noise", "models", "run", "default", "layers", "images", "seeds"]), st.text(max_size=5)
)
NUMBER = st.one_of(st.integers(-(10**400), 10**400), st.floats()).map(lambda n: repr(n).replace("e+", "e"))
QUOTED = st.text(max_size=8).map(lambda text: "'" + text + "'")
VALUE = st.recursive(
    st.one_of(
        NUMBER, QUOTED, st.sampled_from(["true", "1e999", "9" * 5000, "[" * 3000, "1979-05-27", "0x" + "f" * 300])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: "[" + ", ".join(parts) + "]"),
        st.tuples(KEY, inner).map(lambda pair: f"{{{pair[0]} = {pair[1]}}}"),
    ),
    max_leaves=4,
)
LINE = st.one_of(
    st.tuples(KEY, VALUE).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    KEY.map(lambda key: f"[{key}]"),
    KEY.map(lambda key: f"[[{key}]]"),
    st.text(string.printable, max_size=20),
)
TOML = st.one_of(
    st.lists(LINE, max_size=5).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")),
    st.binary(max_size=40),
)


@many(300)
@given(content=TOML)
def test_config_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.toml").write_bytes(content)

    def read() -> None:
        for run in parse(bench.parser(), ["--config", str(tmp_path / "c.toml")], study=True):
            overrides = read_overrides(run.tables, run.set)
            effective_config(METHODS.get("noise"), "vit_digits", overrides)

    graceful(read)


@many(300)
@given(content=TOML)
def test_bits_and_space_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.toml").write_bytes(content)
    graceful(lambda: read_bits(str(tmp_path / "b.toml")))
    graceful(lambda: read_space((Noise(), BACKENDS.get("minmax")), {}, tmp_path / "b.toml"))


@many(300)
@given(
    word=st.one_of(
        WORD, st.tuples(KEY, KEY, VALUE).map(lambda w: f"{w[0]}.{w[1]}={w[2]}"), VALUE.map("noise.images={}".format)
    )
)
def test_settings(word: str) -> None:
    graceful(lambda: effective_config(METHODS.get("noise"), "vit_digits", read_overrides({}, [word])))


FIELD = st.one_of(
    st.sampled_from(["a.jpg", "path", "label", "1", "n01440764", "9" * 5000, '"', "a" * 5000]), st.text(max_size=8)
)
ROW = st.lists(FIELD, max_size=3).map(",".join)
CSV = st.one_of(
    st.lists(ROW, max_size=5).map(lambda rows: "\n".join(["path,label", *rows]).encode("utf-8", "surrogatepass")),
    st.lists(ROW, max_size=4).map(lambda rows: "\r\n".join(rows).encode("utf-8", "surrogatepass")),
    st.binary(max_size=40),
)


@many(500)
@given(content=CSV)
def test_tables_of_labels(tmp_path: Path, content: bytes) -> None:
    if not (tmp_path / "a.jpg").exists():
        save_image(tmp_path / "a.jpg", 0)
    (tmp_path / "labels.csv").write_bytes(content)
    graceful(lambda: find_images(tmp_path))
