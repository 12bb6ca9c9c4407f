"""Image sets as people have them, each made of the same digits: equal results from all, and sentences for the rest."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness_kit import ROOT, records_of, run_bench
from layout_kit import (
    COUNT,
    DIGITS,
    WNIDS,
    as_downloaded,
    as_files_are_left,
    as_parquet,
    as_webdataset,
    by_index,
    class_folders,
    flat,
    flat_tar_beside,
    from_kaggle,
    in_a_tar,
    lines,
    of_any_names,
    one_deeper,
    pack,
    split_folders,
    tar_of_tars,
    with_devkit,
    with_ids_as_text,
    with_real_labels,
    with_synsets,
    with_table,
    with_val_txt,
    write,
)

from harness.inputs.digits import digits_split
from harness.inputs.image_sets import DataSource, checked, load_pixels, open_images
from harness.inputs.images.labels import Classes
from harness.inputs.images.layouts import find_images
from harness.inputs.zoo import ModelEntry
from methods.errors import UsageError

ENTRY = ModelEntry("tiny", "tiny", crop=1.0, size=32)


LAYOUTS: list[Callable[[Path], Any]] = [
    by_index,
    one_deeper,
    split_folders,
    with_table,
    with_val_txt,
    with_synsets,
    from_kaggle,
    with_devkit,
    with_ids_as_text,
    as_downloaded,
    in_a_tar,
    tar_of_tars,
    flat_tar_beside("val.txt", lambda name, label: f"{name} {label}"),
    flat_tar_beside("labels.csv", lambda name, label: f"{name},{WNIDS[label]}"),
    flat_tar_beside("LOC_val_solution.csv", lambda name, label: f"{name[:-5]},{WNIDS[label]} 1 2 30 40"),
    as_webdataset,
    as_parquet,
    of_any_names,
    with_real_labels,
    as_files_are_left,
]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run on class folders leaves."""
    return measured(tmp_path_factory.mktemp("expected"), class_folders)


def measured(root: Path, layout: Callable[[Path], Any]) -> dict[str, Any]:
    """Measure a model on images laid out in one way, by the command; return what its record says of them."""
    made = layout(root / "set")
    where, labels = made if isinstance(made, tuple) else (made, None)
    words = ["--models", "test_vit", "--weights", "random", "--methods", "noise", "--set", "noise.images=2"]
    words += ["--backends", "minmax", "--bits", "w8a8", "--data", str(where)]
    done = run_bench(root / "results", *words, *(["--labels", str(labels)] if labels else []))
    assert done.code == 0, done.err
    [record] = records_of(root / "results").values()
    right = [label for _, label in find_images(where, labels and str(labels)).files]
    found = {name: record[name] for name in ("metrics", "logits_sha256", "correct_bits")}
    return found | {"right": [label if isinstance(label, int) else label[0] for label in right]}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_the_same_result(
    tmp_path: Path, layout: Callable[[Path], Any], expected: dict[str, Any]
) -> None:
    assert measured(tmp_path, layout) == expected
    assert expected["right"] == [label for _, _, label in DIGITS]
    assert expected["metrics"]["n"] == COUNT


def test_their_pixels_and_labels_are_the_digits(tmp_path: Path) -> None:
    source = checked(DataSource(str(as_webdataset(tmp_path))), skip_bad=False)
    images, labels = digits_split(train=False)
    order = np.argsort(labels[:COUNT], kind="stable")
    assert open_images(source).labels == labels[order].tolist()
    assert np.array_equal(load_pixels(source, ENTRY, range(COUNT)).numpy(), images[order].transpose(0, 3, 1, 2))


def bare_ground_truth(root: Path) -> Path:
    write(root / "ILSVRC2012_validation_ground_truth.txt", "490\n361\n")
    return flat(root)


def kaggle_s_running_numbers(root: Path) -> Path:
    write(root / "val.txt", lines(lambda name, _: f"{name[:-5]} {int(name[15:23]) + 1000}"))
    return flat(root)


def some_without_labels(root: Path) -> Path:
    write(root / "val.txt", f"{DIGITS[0][0]} 3\n")
    return flat(root)


def names_and_numbers(root: Path) -> Path:
    return class_folders(root, lambda label: str(label) if label % 2 else WNIDS[label])


def too_short_a_class_map(root: Path) -> Path:
    write(root / "class_map.txt", "thing 0\nthing 1\n")
    return class_folders(root, lambda label: f"thing {label}")


def beside_class_folders(root: Path) -> Path:
    write(root / "x.JPEG", DIGITS[0][1])
    return class_folders(root)


def webdataset_with_a_gap(root: Path) -> Path:
    return pack(root / "a.tar", {"a.png": DIGITS[0][1], "a.cls": b"1", "b.png": DIGITS[1][1]})


def parquet_without_images(root: Path) -> Path:
    root.mkdir()
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), root / "a.parquet")
    return root


def unlabelled_parquet(root: Path) -> Path:
    root.mkdir()
    pq.write_table(pa.table({"image": [{"bytes": DIGITS[0][1], "path": None}]}), root / "a.parquet")
    return root


def parquet_of_text(root: Path) -> Path:
    root.mkdir()
    pq.write_table(pa.table({"image": ["a.png"], "label": [1]}), root / "a.parquet")
    return root


def parquet_below_zero(root: Path) -> Path:
    root.mkdir()
    table = pa.table({"image": [{"bytes": DIGITS[0][1], "path": "a.png"}, None], "label": [0, -1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": "[1]"}), root / "a.parquet")
    return root


def tar_below_zero(root: Path) -> Path:
    """A member whose size takes its reader back to the member itself, which CPython 3.11 reads for ever."""
    head = tarfile.TarInfo("a.png")
    head.size = -512
    root.mkdir()
    (root / "a.tar").write_bytes(head.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    return root / "a.tar"


def numbers_of_thousands_of_digits(root: Path) -> Path:
    write(root / "ILSVRC2012_validation_ground_truth.txt", "9" * 5000)
    write(root / "map_clsloc.txt", "n01440764 1 tench\n")
    return flat(root)


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    def layout(root: Path) -> Path:
        write(root / name, content)
        return root / name

    return layout


def labelled_by(name: str, content: str) -> Callable[[Path], tuple[Path, Path]]:
    def layout(root: Path) -> tuple[Path, Path]:
        write(root / name, content)
        return flat(root / "val"), root / name

    return layout


SENTENCES: list[tuple[Callable[[Path], Any], list[str]]] = [
    (flat, ["12 images", "nothing that says what they show", "labels.csv", "val.txt", "LOC_val_solution", "--labels"]),
    (bare_ground_truth, ["order of its own", "meta.mat", "map_clsloc.txt"]),
    (kaggle_s_running_numbers, ["val.txt, line 1", "'1001'", "0..999"]),
    (some_without_labels, ["no label for 11 of 12 images", DIGITS[1][0]]),
    (names_and_numbers, ["mixes class folders named by WordNet id and by number (such as 1)"]),
    (too_short_a_class_map, ["class_map.txt needs a line for each of the model's classes"]),
    (beside_class_folders, ["in class folders and beside them (such as x.JPEG)"]),
    (webdataset_with_a_gap, ["b.png has no label beside it"]),
    (parquet_without_images, ["a.parquet has no column image", "text, label"]),
    (unlabelled_parquet, ["a.parquet has no column of labels"]),
    (parquet_of_text, ["a.parquet has a column image of string, not of bytes and path"]),
    (parquet_below_zero, ["a/0000001: '-1' is neither a class index"]),
    (tar_below_zero, ["'a.png' has a size below 0"]),
    (numbers_of_thousands_of_digits, ["(5000 characters)", "is no ILSVRC id 1..1000"]),
    (written("x.tar.gz", b"x"), ["x.tar.gz is compressed"]),
    (written("x.tar", b"x" * 2000), ["x.tar cannot be read as a tar file"]),
    (written("x.parquet", b"x" * 2000), ["x.parquet cannot be read as a parquet file"]),
    (labelled_by("a.json", "[[3, 1000]]"), ["a.json, image 1", "'1000'"]),
    (labelled_by("a.json", "{"), ["a.json is no JSON"]),
    (labelled_by("a.json", "3"), ["a.json needs a list"]),
    (labelled_by("a.txt", "3\nx.JPEG 4\n"), ["one class a line, or a name and a class"]),
    (labelled_by("a.txt", "3\n"), ["no label for 11 of 12 images"]),
    (labelled_by("a.csv", "name,class\nx\n"), ["line 2 needs a name and a class"]),
    (lambda root: (flat(root), root / "none.txt"), ["no label file", "none.txt"]),
]


@pytest.mark.parametrize(("layout", "words"), SENTENCES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_missing_is_said_in_one_sentence(
    tmp_path: Path, layout: Callable[[Path], Any], words: list[str]
) -> None:
    made = layout(tmp_path / "set")
    where, labels = made if isinstance(made, tuple) else (made, None)
    with pytest.raises(UsageError) as error:
        find_images(where, labels and str(labels))
    text = str(error.value)
    assert all(word in text for word in words), text
    assert "\n" not in text


def test_the_guide_quotes_what_is_said(tmp_path: Path) -> None:
    said = ""
    for number, (layout, _) in enumerate(SENTENCES):
        made = layout(tmp_path / str(number))
        where, labels = made if isinstance(made, tuple) else (made, None)
        with pytest.raises(UsageError) as error:
            find_images(where, labels and str(labels))
        said += f"{error.value}\n"
    table = (ROOT / "docs" / "data.md").read_text().partition("\n## Refused")[2].partition("\n## ")[0]
    quoted = [words for row in table.splitlines() if row.startswith("| ") for words in re.findall("`(.+?)`", row)]
    assert len(quoted) > 15
    assert [words for words in quoted if words not in said] == []


def test_a_sentence_of_the_command_leaves_nothing_behind(tmp_path: Path) -> None:
    words = ["--models", "test_vit", "--weights", "random", "--data", str(flat(tmp_path / "set"))]
    done = run_bench(tmp_path / "results", *words)
    assert (done.code, done.out) == (2, "")
    assert "nothing that says what they show" in done.err
    assert not (tmp_path / "results").exists()


def test_labels_without_images_to_label_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DFQ_DATA", raising=False)
    done = run_bench(tmp_path / "results", "--models", "vit_digits", "--labels", "ReaL")
    assert done.code == 2
    assert "--labels ReaL has no effect" in done.err


def test_real_labels_come_with_timm_and_leave_out_images_without_any(tmp_path: Path) -> None:
    """The first image of the validation set has none, the next ones these."""
    for number in range(1, 9):
        write(tmp_path / "val" / f"ILSVRC2012_val_{number:08d}.JPEG", DIGITS[0][1])
    images = open_images(DataSource(str(tmp_path / "val"), labels="ReaL"))
    assert images.labels == [(970, 795), (230, 231), (809,), (516, 850), (57,), (334,), (700,)]
    assert (images.identity()["name"], images.identity()["n"]) == ("val (ReaL)", 7)
    assert images.left_out == {"no label in ReaL": 1}


def test_class_names_of_a_model_name_its_folders(tmp_path: Path) -> None:
    names = tuple(f"digit {label}" for label in range(10))
    root = class_folders(tmp_path, lambda label: names[9 - label])
    found = find_images(root, classes=Classes(10, names)).files
    assert [label for _, label in found] == sorted(9 - label for _, _, label in DIGITS)
    with pytest.raises(UsageError, match="no class of the model"):
        find_images(root, classes=Classes(3, names[:3]))


def test_folders_of_a_model_whose_class_names_nobody_knows_are_counted_in_order(tmp_path: Path) -> None:
    root = class_folders(tmp_path, lambda label: f"class_{label}")
    present = sorted({label for _, _, label in DIGITS})
    found = find_images(root, classes=Classes(len(present))).files
    assert [label for _, label in found] == [present.index(label) for _, _, label in DIGITS]
    with pytest.raises(UsageError, match=f"{len(present)} class folders, and the model has 11 classes"):
        find_images(root, classes=Classes(11))
    (root / f"class_{present[0]}").rename(root / "class_10")
    with pytest.raises(UsageError, match="sort its class folders differently"):
        find_images(root, classes=Classes(len(present)))


def test_a_damaged_image_in_a_tar_or_a_parquet_file_is_named_never_replaced(tmp_path: Path) -> None:
    good, cut = DIGITS[0][1], DIGITS[1][1][:200]
    pack(tmp_path / "a.tar", {"n01440764/good.png": good, "n01440764/cut.png": cut})
    rows = [
        {"bytes": cut, "path": "cut.png"},
        {"bytes": None, "path": "lost.png"},
        {"bytes": good, "path": "good.png"},
    ]
    pq.write_table(pa.table({"image": rows, "label": [0, 0, 0]}), tmp_path / "a.parquet")
    for name, bad in (("a.tar", 1), ("a.parquet", 2)):
        source = DataSource(str(tmp_path / name))
        with pytest.raises(UsageError, match=rf"{bad} of {bad + 1} images .*cut\.png: "):
            checked(source, skip_bad=False)
        images = open_images(checked(source, skip_bad=True))
        assert len(images) == 1
        assert sum(images.left_out.values()) == bad
