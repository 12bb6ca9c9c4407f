"""Bad input to the main job: one clear sentence, exit code 2, no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from harness_kit import Outcome, flat_folder, python, random_image, run_bench, save_image, snapshot


def assert_refused(done: Outcome, results: Path, *words: str) -> None:
    assert done.code == 2, done
    assert "Traceback" not in done.out + done.err
    sentence = done.err.strip()
    assert sentence
    assert "\n" not in sentence, sentence
    assert sentence.endswith("."), sentence
    assert done.out == ""
    for word in words:
        assert word in sentence, sentence
    assert not results.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--models", "diet_t"], ["'diet_t'", "'deit_t'"]),
        (["--models", "vit_digits,nothing_*"], ["'nothing_*'"]),
        (["--models", "deit_tiny_patch16_224.fb_in1kk"], ["fb_in1kk"]),
        (["--models", ","], ["--models"]),
        (["--methods", "spdfk", "--backends", "minmax"], ["'spdfk'", "'spdfq'"]),
        (["--methods", "noise", "--backends", "minmaxx"], ["'minmaxx'", "'minmax'"]),
        (["--bits", "4"], ["'4'", "w4a4"]),
        (["--bits", "w4a4,w1a4"], ["'w1a4'", "2 to 8"]),
        (["--bits", "w4a9"], ["'w4a9'", "9", "2 to 8"]),
        (["--bits", ""], ["--bits"]),
        (["--seeds", "0,-1"], ["'-1'"]),
        (["--seeds", "one"], ["'one'"]),
        (["--seeds", "1.5"], ["'1.5'"]),
        (["--seeds", "²"], ["'²'"]),
        (["--set", "spdfq.iteration=5"], ["'iteration'", "'iterations'"]),
        (["--set", "spdfk.iterations=5"], ["'spdfk'", "'spdfq'"]),
        (["--set", "spdfq.images=many"], ["spdfq.images", "whole number"]),
        (["--set", "spdfq.images=0"], ["spdfq", "images"]),
        (["--set", "spdfq.alpha1=nan"], ["spdfq.alpha1"]),
        (["--set", "images=4"], ["images=4", "method.key=value"]),
        (["--methods", "noise", "--set", "spdfq.images=4"], ["spdfq.images=4", "no effect"]),
        (["--methods", "real", "--set", "real.images=5000"], ["5000", "1297"]),
        (["--config", "absent.toml"], ["absent.toml"]),
        (["--data", "absent"], ["absent"]),
        (["--cpus-per-trial", "9999"], ["9999", "CPUs"]),
        (["--gpus-per-trial", "99"], ["99", "GPUs"]),
        (["--gpus-per-trial", "-1"], ["-1"]),
        (["--gpus-per-trial", "nan"], ["nan"]),
        (["--models", "deit_t", "--data", "digits", "--weights", "random"], ["deit_t", "digits"]),
    ],
    ids=lambda value: " ".join(value)[:40] if value and value[0].startswith("--") else "",
)
def test_words_that_do_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--limit", "10"]
    given += [] if "--models" in words else ["--models", "vit_digits"]
    given += [] if "--methods" in words or "--set" in words else ["--methods", "noise", "--backends", "minmax"]
    if "absent" in words:
        given += ["--models", "test_vit.r160_in1k", "--weights", "random"]
    assert_refused(run_bench(tmp_path / "results", *given, *words), tmp_path / "results", *expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    done = run_bench(tmp_path / "results", "--models", "vit_digits", "--device", "cuda")
    assert_refused(done, tmp_path / "results", "CUDA")


# What a shell makes of a variable that is not set; the option's default would be chosen without a word.
EMPTY = [[option, ""] for option in ("--data", "--labels", "--calib-data", "--weights", "--results", "--address")]


@pytest.mark.parametrize(
    "words", [["--executor", "rya"], ["--limit", "0"], ["--limit", "many"], ["--nonsense"], *EMPTY]
)
def test_words_argparse_refuses(tmp_path: Path, words: list[str]) -> None:
    done = run_bench(tmp_path / "results", "--models", "vit_digits", *words)
    assert done.code == 2
    assert words[0] in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "results").exists()


def test_a_bad_config_file(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    for text, words in (("[spdfq", ["run.toml"]), ("[spdfq]\nimagse = 3\n", ["'imagse'", "'images'"])):
        config.write_text(text)
        done = run_bench(tmp_path / "results", "--models", "vit_digits", "--config", str(config))
        assert_refused(done, tmp_path / "results", *words)


def test_results_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    done = run_bench(tmp_path / "file" / "results", "--models", "vit_digits")
    assert_refused(done, tmp_path / "file" / "results", "cannot be written")
    assert (tmp_path / "file").read_text() == "kept"


IMAGENET = ["--models", "test_vit.r160_in1k", "--methods", "noise", "--backends", "minmax"]


def test_a_weights_folder_without_the_file(tmp_path: Path) -> None:
    done = run_bench(tmp_path / "results", *IMAGENET, "--weights", str(tmp_path), "--limit", "2")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 4)
    assert "holds neither test_vit.r160_in1k.safetensors nor test_vit.r160_in1k.pth." in done.err


def test_weights_of_another_architecture_and_damaged_ones(tmp_path: Path) -> None:
    path = tmp_path / "test_vit.r160_in1k.pth"
    torch.save({"conv.weight": torch.zeros(3)}, path)
    done = run_bench(tmp_path / "results", *IMAGENET, "--weights", str(tmp_path), "--limit", "2")
    assert_refused(done, tmp_path / "results", "not a checkpoint of", "is missing")
    path.write_bytes(path.read_bytes()[:100])
    done = run_bench(tmp_path / "results", *IMAGENET, "--weights", str(tmp_path), "--limit", "2")
    assert_refused(done, tmp_path / "results", "cannot be read as a checkpoint")


def test_folders_of_unknown_classes(tmp_path: Path) -> None:
    save_image(tmp_path / "data" / "cats" / "a.jpg", 0)
    done = run_bench(tmp_path / "results", *IMAGENET, "--weights", "random", "--data", str(tmp_path / "data"))
    assert_refused(done, tmp_path / "results", "cats", "1 folders")


def test_damaged_images_stop_the_run_or_are_left_out(tmp_path: Path) -> None:
    data = flat_folder(tmp_path / "data", 4)
    cut = data / "2.jpg"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    words = [*IMAGENET, "--weights", "random", "--data", str(data), "--bits", "w4a4"]
    done = run_bench(tmp_path / "results", *words)
    assert_refused(done, tmp_path / "results", "1 of 4 images", "2.jpg", "--skip-bad-images")
    done = run_bench(tmp_path / "results", *words, "--skip-bad-images", "--plan")
    assert done.code == 0, done.err
    assert "1 cells" in done.out


def test_a_damaged_exif_says_nothing_of_the_image_and_prints_nothing(tmp_path: Path) -> None:
    data = flat_folder(tmp_path / "data", 1)
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\x01"  # 65535 entries, of which there are none
    random_image(0).save(data / "0.jpg", exif=exif)
    words = [*IMAGENET, "--weights", "random", "--data", str(data), "--plan"]
    done = run_bench(tmp_path / "results", *words)
    assert (done.code, done.err) == (0, "")


def test_real_images_not_given(tmp_path: Path) -> None:
    words = ["--models", "test_vit.r160_in1k", "--methods", "real", "--weights", "random", "--limit", "2"]
    done = run_bench(tmp_path / "results", *words)
    assert_refused(done, tmp_path / "results", "--calib-data", "test_vit.r160_in1k")


def test_no_network_for_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_words: str) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    done = run_bench(tmp_path / "results", *IMAGENET, "--limit", "2")
    assert (done.code, done.out, (tmp_path / "results").exists()) == (2, "", False)
    sentence, *ways = done.err.splitlines()
    assert "The hub gives no weights for test_vit.r160_in1k (ConnectionError)." in sentence
    wanted = ("timm's hub", "--weights DIR or DFQ_WEIGHTS=DIR, with DIR/test_vit.r160_in1k.safetensors", "random")
    assert all(word in way for word, way in zip(wanted, ways, strict=True))


def test_too_much_for_ray_is_found_before_ray_starts(tmp_path: Path) -> None:
    done = run_bench(tmp_path / "results", "--models", "vit_digits", "--executor", "ray", "--cpus-per-trial", "9999")
    assert_refused(done, tmp_path / "results", "9999")


def test_what_is_no_address_is_refused_by_the_plan_too(tmp_path: Path) -> None:
    done = run_bench(
        tmp_path / "results", "--models", "vit_digits", "--executor", "ray", "--address", "local", "--plan"
    )
    assert_refused(done, tmp_path / "results", "'local' is no address")


def test_help_is_quick_and_ends_with_examples() -> None:
    for module in ("bench", "leaderboard", "search.__main__", "perf.__main__"):
        script = (
            f"import sys, time; start = time.perf_counter(); import harness.{module} as command\n"
            "try: command.main(['--help'])\nexcept SystemExit as stop: code = stop.code\n"
            "heavy = {'torch', 'timm', 'ray', 'numpy', 'pandas', 'sklearn'} & set(sys.modules)\n"
            "print(code, sorted(heavy), time.perf_counter() - start < 2)"
        )
        done = python("-c", script)
        assert done.out.splitlines()[-1] == "0 [] True", done
        examples = done.out.partition("examples:\n")[2].splitlines()[:-1]
        commands = [line.strip() for line in examples if line.strip()]
        assert len(commands) >= 3
        assert all(command.startswith(f"python -m harness.{module.removesuffix('.__main__')}") for command in commands)


def test_plan_counts_and_writes_nothing(tmp_path: Path) -> None:
    words = ["--models", "vit_digits", "--bits", "w4a4,w8a8", "--methods", "noise,spdfq", "--seeds", "0,1", "--plan"]
    done = run_bench(tmp_path / "results", *words)
    assert done.code == 0, done.err
    assert "8 cells, 0 recorded; 4 syntheses and 8 cells to run." in done.out
    assert done.out.count("to run") == 8 + 1
    assert "minutes" in done.out
    assert "GiB" in done.out
    assert snapshot(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
