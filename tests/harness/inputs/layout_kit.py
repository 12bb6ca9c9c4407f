"""Image sets laid out as people have them, each of the same digits."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import savemat

from harness.inputs.digits import digits_split
from harness.inputs.images.labels import class_index

WNIDS = list(class_index())


COUNT = 12


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
