"""Image sets as people have them, each made of the same digits: equal results from all, and sentences for the rest."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness_kit import ROOT, records_of, run_bench
from PIL import Image
from scipy.io import savemat

from harness.inputs.digits import digits_split
from harness.inputs.image_sets import DataSource, checked, load_pixels, open_images
from harness.inputs.images.labels import Classes, class_index
from harness.inputs.images.layouts import find_images
from harness.inputs.zoo import ModelEntry
from methods.errors import UsageError

WNIDS = list(class_index())
COUNT = 12
ENTRY = ModelEntry("tiny", "tiny", crop=1.0, size=32)


def digits() -> list[tuple[str, bytes, int]]:
    """(ILSVRC's name, bytes, class) of digits, sorted by class: all layouts have them in the same order."""
    images, labels = digits_split(train=False)
    found = []
    for number, place in enumerate(np.argsort(labels[:COUNT], kind="stable"), start=1):
        stream = io.BytesIO()
        Image.fromarray(images[place]).save(stream, "PNG")
        found.append((f"ILSVRC2012_val_{number:08d}.JPEG", stream.getvalue(), int(labels[place])))
    return found


DIGITS = digits()


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def flat(root: Path) -> Path:
    for name, content, _ in DIGITS:
        write(root / name, content)
    return root


def pack(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def lines(of: Callable[[str, int], str]) -> str:
    return "".join(f"{of(name, label)}\n" for name, _, label in DIGITS)


def class_folders(root: Path, named: Callable[[int], str] = lambda label: WNIDS[label]) -> Path:
    for name, content, label in DIGITS:
        write(root / named(label) / name, content)
    return root


def by_index(root: Path) -> Path:
    return class_folders(root, str)


def one_deeper(root: Path) -> Path:
    return class_folders(root, lambda label: f"{WNIDS[label]}/images")


def split_folders(root: Path) -> Path:
    class_folders(root / "train", lambda _: WNIDS[999])
    class_folders(root / "val")
    return root


def with_table(root: Path) -> Path:
    write(root / "labels.csv", "path,label\n" + lines(lambda name, label: f"{name},{label}"))
    return flat(root)


def with_val_txt(root: Path) -> Path:
    write(root / "val.txt", lines(lambda name, label: f"{name} {label}"))
    return flat(root)


def with_synsets(root: Path) -> tuple[Path, Path]:
    """One WordNet id a line, in the order of the validation set's numbers, as TensorFlow's scripts have it."""
    write(root / "synset_labels.txt", lines(lambda _, label: WNIDS[label]))
    return flat(root / "val"), root / "synset_labels.txt"


def from_kaggle(root: Path) -> Path:
    boxes = lines(lambda name, label: f"{name[:-5]},{WNIDS[label]} 1 2 30 40 {WNIDS[label]} 5 6 7 8 ")
    write(root / "LOC_val_solution.csv", "ImageId,PredictionString\n" + boxes)
    write(root / "LOC_synset_mapping.txt", "".join(f"{wnid} a name\n" for wnid in WNIDS))
    return flat(root / "ILSVRC" / "Data" / "CLS-LOC" / "val")


@lru_cache
def ground_truth() -> dict[str, bytes]:
    """The development kit's labels and its meta.mat, whose ids count the classes backwards, and one that is none."""
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(number, WNIDS[-number], "a name", "a gloss", 0) for number in range(1, 1001)]
    stream = io.BytesIO()
    savemat(stream, {"synsets": np.array([*rows, (1001, "n00001740", "entity", "all", 9)], dtype=kinds)})
    truth = lines(lambda _, label: str(1000 - label)).encode()
    return {"meta.mat": stream.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth}


def with_devkit(root: Path) -> Path:
    for name, content in ground_truth().items():
        write(root / "ILSVRC2012_devkit_t12" / "data" / name, content)
    return flat(root / "val")


def with_ids_as_text(root: Path) -> Path:
    write(root / "map_clsloc.txt", "".join(f"{WNIDS[-number]} {number} a_name\n" for number in range(1, 1001)))
    name = "ILSVRC2012_validation_ground_truth.txt"
    write(root / name, ground_truth()[name])
    return flat(root)


def as_downloaded(root: Path) -> Path:
    """The two files of image-net.org side by side."""
    pack(root / "ILSVRC2012_img_val.tar", {name: content for name, content, _ in DIGITS})
    inner = {f"ILSVRC2012_devkit_t12/data/{name}": content for name, content in ground_truth().items()}
    packed = pack(root / "kit.tar", inner)
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar, tarfile.open(packed) as plain:
        for member in plain:
            tar.addfile(member, plain.extractfile(member))
    packed.unlink()
    return root


def in_a_tar(root: Path) -> Path:
    return pack(root / "val.tar", {f"./val/{WNIDS[label]}/{name}": content for name, content, label in DIGITS})


def tar_of_tars(root: Path) -> Path:
    """As ILSVRC's training images come: a tar file for each class, in one."""
    inner: dict[str, bytes] = {}
    for label in {label for _, _, label in DIGITS}:
        members = {name: content for name, content, other in DIGITS if other == label}
        inner[f"{WNIDS[label]}.tar"] = pack(root / "one.tar", members).read_bytes()
    (root / "one.tar").unlink()
    return pack(root / "all.tar", inner)


def as_webdataset(root: Path) -> Path:
    for start in range(0, COUNT, 5):
        members: dict[str, bytes] = {}
        for name, content, label in DIGITS[start : start + 5]:
            about = json.dumps({"label": label}).encode()
            beside = (".cls", str(label).encode()) if start else (".json", about)
            members |= {f"{name[:-5]}.png": content, f"{name[:-5]}{beside[0]}": beside[1]}
        pack(root / f"imagenet1k-validation-{start:02d}.tar", members)
    pack(root / "imagenet1k-train-00.tar", {"a.png": b"no image", "a.cls": b"0"})
    return root


def as_parquet(root: Path) -> Path:
    (root / "data").mkdir(parents=True)
    for start in range(0, COUNT, 5):
        part = DIGITS[start : start + 5]
        images = [{"bytes": content, "path": name} for name, content, _ in part]
        table = pa.table({"image": images, "label": [label for _, _, label in part]})
        pq.write_table(table, root / "data" / f"validation-{start:05d}-of-00003.parquet", row_group_size=2)
    write(root / "data" / "train-00000-of-00001.parquet", "never read")
    write(root / "README.md", "a card")
    return root


def flat_tar_beside(name: str, text: Callable[[str, int], str]) -> Callable[[Path], Path]:
    """ILSVRC's tar file with a label file beside it."""

    def layout(root: Path) -> Path:
        write(root / name, lines(text))
        return pack(root / "ILSVRC2012_img_val.tar", {name: content for name, content, _ in DIGITS})

    layout.__name__ = f"tar_beside_{name}"
    return layout


def of_any_names(root: Path) -> Path:
    write(root / "class_map.txt", "".join(f"thing {label:03d}\n" for label in range(1000)))
    return class_folders(root, lambda label: f"thing {label:03d}")


def with_real_labels(root: Path) -> tuple[Path, Path]:
    write(root / "real.json", json.dumps([[label] for _, _, label in DIGITS]))
    return class_folders(root / "val", lambda _: WNIDS[500]), root / "real.json"


def as_files_are_left(root: Path) -> Path:
    """With what systems and editors leave behind, links, spaces, umlauts, other suffixes in capitals."""
    for number, (_, content, label) in enumerate(DIGITS):
        folder = root / WNIDS[label]
        name = f"{number:02d} ä ü.{['PNG', 'JPG', 'tif', 'webp'][number % 4]}"
        write(root.parent / "elsewhere" / name if number % 2 else folder / name, content)
        if number % 2:
            folder.mkdir(exist_ok=True)
            (folder / name).symlink_to(root.parent / "elsewhere" / name)
    used = root / WNIDS[DIGITS[0][2]]
    for junk in ("._x.JPEG", ".DS_Store", "Thumbs.db", ".ipynb_checkpoints/x-checkpoint.JPEG", "@eaDir/x.JPEG"):
        write(used / junk, b"junk")
    (root / "circle").symlink_to(root)
    return root


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
