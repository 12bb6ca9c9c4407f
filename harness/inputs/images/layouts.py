"""Image sets as people have them on disk: which images there are, and what is right for each.

A folder of class folders, a flat folder or tar with a label file, WebDataset shards, parquet shards of Hugging Face.
Class folders are named by WordNet id, by class index (ImageNet-V2), or by the class names of the model.
"""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path

from harness.inputs.images import label_files
from harness.inputs.images.decoding import SUFFIXES
from harness.inputs.images.label_files import GROUND_TRUTH, SOLUTION, LabelFile
from harness.inputs.images.labels import WORDNET, Classes, Label, class_of_folders
from harness.inputs.images.stores import FolderStore, ParquetStore, Store, TarStore, is_visible
from methods.errors import UsageError
from methods.text import shortened

TABLE = "labels.csv"
_VALIDATION, _OTHERS = ("val", "validation", "valid"), ("train", "training", "test")
_BESIDE = (
    TABLE,
    SOLUTION,
    "val.txt",
    GROUND_TRUTH,
    f"ILSVRC2012_devkit_t12/data/{GROUND_TRUTH}",
    f"data/{GROUND_TRUTH}",
)
_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_IMAGES_TAR = "ILSVRC2012_img_val.tar"
_ABOVE = 4  # Kaggle's images lie so many folders below their labels


@dataclass(frozen=True)
class Found:
    """The images of a set, sorted by name, each with its label; unlabelled: how many were left out for having none."""

    store: Store
    files: list[tuple[str, Label]]
    unlabelled: int = 0


def find_images(where: Path, labels: str | None = None, classes: Classes = WORDNET) -> Found:
    """Find the images of a folder, a tar file or a parquet file, and what is right for each.

    labels: a label file, or "ReaL" for ImageNet's ReaL labels; None: as the layout says. Raises UsageError when the
    place is missing, holds no images, or does not say what is right for them.
    """
    if labels is None and (where / TABLE).is_file() and not (where / _IMAGES_TAR).is_file():
        return _from_table(where, classes)
    store = _store(where)
    names = sorted(store.names())
    if not names:
        raise UsageError(f"{where} holds no images (looked for {', '.join(sorted(SUFFIXES))}).")
    if labels is not None:
        table = label_files.real_labels(classes) if labels == label_files.REAL else None
        return _labelled(store, names, table or label_files.read_labels(Path(labels), classes))
    own = _own_labels(store, names, classes)
    if own is not None:
        return Found(store, sorted(own.items()))
    if not any("/" in name for name in names):
        return _labelled(store, names, _table_beside(store, len(names), classes))
    beside = where if where.is_dir() else where.parent
    by_folder = class_of_folders(store.root, names, label_files.class_map(beside, classes))
    return Found(store, list(zip(names, by_folder, strict=True)))


def _labelled(store: Store, names: list[str], table: LabelFile) -> Found:
    labels = table.of(names)
    return Found(store, sorted(labels.items()), len(names) - len(labels))


def _store(where: Path) -> Store:
    """Return what holds the images at a place; raises UsageError where nothing does."""
    if where.is_file() and where.suffix in {".tar", ".parquet"}:
        return TarStore(where, [where]) if where.suffix == ".tar" else ParquetStore(where, [where])
    if re.search(r"\.(tar\.\w+|tgz|zip)$", where.name) and where.is_file():
        raise UsageError(f"{where} is compressed; unpack it, or give it as a .tar.")
    if not where.is_dir():
        raise UsageError(f"There is no data folder {where}.")
    if shards := _shards(where, "parquet") or _shards(where / "data", "parquet"):
        return ParquetStore(where, shards)
    if (where / _IMAGES_TAR).is_file():
        return TarStore(where, [where / _IMAGES_TAR])
    if tars := _shards(where, "tar"):
        return TarStore(where, tars)
    return FolderStore(_split_folder(where))


def _shards(folder: Path, suffix: str) -> list[Path]:
    """Return the files with a suffix, of the validation split where their names tell splits apart."""
    files = [path for path in sorted(folder.glob(f"*.{suffix}")) if is_visible(path.name) and path.is_file()]
    words = {path: set(re.split(r"[^a-z]+", path.stem.lower())) for path in files}
    chosen = [path for path in files if words[path] & set(_VALIDATION)]
    return chosen or [path for path in files if not words[path] & set(_OTHERS)] or files


def _split_folder(where: Path) -> Path:
    """Return the validation folder of a folder that holds splits and nothing else, or the folder itself."""
    inner = {child.name.lower(): child for child in where.iterdir() if is_visible(child.name) and child.is_dir()}
    if set(inner) <= {*_VALIDATION, *_OTHERS}:
        return next((inner[name] for name in _VALIDATION if name in inner), where)
    return where


def _from_table(root: Path, classes: Classes) -> Found:
    """Read labels.csv, whose rows with the columns path,label are the images."""
    table = root / TABLE
    rows = iter(label_files.csv_rows(label_files.text_of(table), str(table)))
    header = next(rows, (1, []))[1]
    if not {"path", "label"} <= set(header):
        raise UsageError(f"{table} needs a header line with the columns path,label.")
    if len(set(header)) < len(header):
        raise UsageError(f"{table} has two columns of one name: {shortened(','.join(header))!r}.")
    files: dict[str, Label] = {}
    for number, fields in rows:
        place, row = f"{table}, line {number}", dict(zip(header, fields, strict=False))
        name = _file(root, row.get("path"), place)
        label_files.add(files, name, classes.read((row.get("label") or "").strip(), place), place)
    if not files:
        raise UsageError(f"{root} holds no images (looked for {', '.join(sorted(SUFFIXES))}).")
    return Found(FolderStore(root), sorted(files.items()))


def _file(root: Path, name: str | None, place: str) -> str:
    """Return the one name of a file or a link in the folder; whether it decodes is seen later."""
    if not (name and _is_there(root / name)):
        raise UsageError(f"{place}: there is no file {shortened(name or '')!r}.")
    return posixpath.normpath(name)


def _is_there(path: Path) -> bool:
    try:
        return path.is_symlink() or path.is_file()
    except (OSError, ValueError):  # longer than names can be, or with a NUL
        return False


def _own_labels(store: Store, names: list[str], classes: Classes) -> dict[str, Label] | None:
    """Return the labels that lie in the images' own files, None where there are none."""
    if isinstance(store, ParquetStore):
        words = store.class_names()
        return {
            name: classes.read(words[label] if classes.names and 0 <= label < len(words) else str(label), name)
            for name, label in store.labels().items()
        }
    if not isinstance(store, TarStore) or not store.is_webdataset:
        return None
    return {name: classes.read(_word(store.beside(name), name), name) for name in names}


def _word(content: bytes | None, name: str) -> str:
    """Return the class in what WebDataset puts beside an image: a number or a name, or JSON with a `label`."""
    text = (content or b"").decode(errors="replace").strip()
    if text.startswith("{"):
        try:
            about = json.loads(text)
        except (ValueError, RecursionError):
            about = {}
        text = str(next((about[key] for key in ("label", "cls", "class") if key in about), ""))
    if not text:
        raise UsageError(f"{name} has no label beside it: neither .cls nor .json with a label.")
    return text


def _table_beside(store: Store, count: int, classes: Classes) -> LabelFile:
    """Return the label file of images without class folders, which lies with them or in a folder above."""
    first = store.root if store.root.is_dir() else store.root.parent
    for folder in (first, *list(first.parents)[:_ABOVE]):
        for name in _BESIDE:
            if (folder / name).is_file():
                return label_files.read_labels(folder / name, classes)
        if (folder / _DEVKIT).is_file():
            return label_files.devkit(folder / _DEVKIT, classes)
    raise UsageError(
        f"{store.root} holds {count} images and nothing that says what they show: put them into class folders, or put "
        f"beside them {TABLE} (path,label), val.txt, {GROUND_TRUTH} or {SOLUTION}, or name a file with --labels."
    )
