"""Labels of images: class folders' names, and the label files that image sets come with.

Of ILSVRC's validation set: `val.txt` (name and class index), Kaggle's `LOC_val_solution.csv`, one WordNet id or index
a line, and the development kit's ground truth, whose numbers are in an order of their own that `meta.mat` or
`map_clsloc.txt` beside it tells. ReaL labels (https://arxiv.org/abs/2006.07159) are any number of right classes for
each image.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.inputs.images.labels import Classes, Label
from methods.errors import UsageError
from methods.text import shortened

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SOLUTION = "LOC_val_solution.csv"
CLASS_MAP = "class_map.txt"
_MAP = "map_clsloc.txt"
REAL = "ReaL"
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")
_MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class LabelFile:
    """A label file as read: labels by the image's name, or by its number in ILSVRC's validation set."""

    path: str
    by_name: dict[str, Label]
    by_number: list[Label]

    def of(self, names: Iterable[str]) -> dict[str, Label]:
        """Return the labels of images; raises UsageError when one has none.

        A name is looked up whole, without its folders, and without its suffix. An image whose ReaL labels are none is
        left out, as ReaL's authors do.
        """
        found = {name: self._label(name) for name in names}
        lacking = [name for name, label in found.items() if label is None]
        if lacking:
            raise UsageError(
                f"{self.path} has no label for {len(lacking)} of {len(found)} images (such as {lacking[0]})."
            )
        return {name: label for name, label in found.items() if label is not None and label != ()}

    def _label(self, name: str) -> Label | None:
        if self.by_number:
            number = _NUMBER.search(name)
            place = int(number[1]) - 1 if number else -1
            return self.by_number[place] if 0 <= place < len(self.by_number) else None
        base = posixpath.basename(name)
        found = (self.by_name.get(word) for word in (name, base, posixpath.splitext(base)[0]))
        return next((label for label in found if label is not None), None)


def read_labels(path: Path, classes: Classes) -> LabelFile:
    """Read a label file, told by its name and first line; raises UsageError for one that does not read."""
    if path.suffix.lower() == ".json":
        return _from_json(str(path), text_of(path), classes)
    if path.name == GROUND_TRUTH:
        return ground_truth(str(path), text_of(path), _ids_beside(path), classes)
    if path.suffix.lower() == ".csv":
        return _from_csv(path, classes)
    return _from_lines(path, classes)


def class_map(folder: Path, classes: Classes) -> Classes:
    """Return the classes under the names that timm's class map in a folder gives them, if there is one: one a line, in
    the order of the model's outputs; raises UsageError where they are not as many."""
    path = folder / CLASS_MAP
    if not path.is_file():
        return classes
    names = tuple(line.strip() for line in text_of(path).strip().splitlines())
    if len(set(names)) != len(names) or classes.count not in (0, len(names)):
        raise UsageError(f"{path} needs a line for each of the model's classes, no two the same.")
    return Classes(classes.count, names)


def text_of(path: Path) -> str:
    """Return a text file's content, without a byte order mark; raises UsageError if it is none."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"There is no label file {path}, or it is no regular file of a sensible size.")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as UTF-8 text ({type(error).__name__}).") from error


def _from_lines(path: Path, classes: Classes) -> LabelFile:
    """Read lines of a name and a class, or of a class alone."""
    by_name: dict[str, Label] = {}
    by_number: list[Label] = []
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        words = line.rsplit(maxsplit=1)
        if words:
            label = classes.read(words[-1], f"{path}, line {number}")
            if len(words) == 1:
                by_number.append(label)
            else:
                add(by_name, words[0].replace("\\", "/").strip(), label, f"{path}, line {number}")
    if bool(by_name) == bool(by_number):
        raise UsageError(f"{path} needs one class a line, or a name and a class on each.")
    return LabelFile(str(path), by_name, by_number)


def _from_csv(path: Path, classes: Classes) -> LabelFile:
    """Read rows of a name and a class, or Kaggle's of a name and, for each box, a WordNet id and four numbers."""
    by_name: dict[str, Label] = {}
    for number, fields in csv_rows(text_of(path), str(path)):
        if len(fields) < 2 or not fields[1].split():
            raise UsageError(f"{path}, line {number} needs a name and a class.")
        if number > 1 or classes.index(fields[1].split()[0]) is not None:  # the first line may be a header
            place = f"{path}, line {number}"
            add(by_name, fields[0].strip(), classes.read(fields[1].split()[0], place), place)
    return LabelFile(str(path), by_name, [])


def add(labels: dict[str, Label], name: str, label: Label, place: str) -> None:
    """Note an image's label; raises UsageError for an image that has one already."""
    if name in labels:
        raise UsageError(f"{place}: {shortened(name)!r} is there twice.")
    labels[name] = label


def csv_rows(text: str, where: str) -> Iterable[tuple[int, list[str]]]:
    """Yield (number, fields) of each line of CSV that is not empty, each line on its own: no name spans lines, and a
    stray quote is blamed on its own line (UsageError)."""
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            fields = next(csv.reader([line.rstrip("\r")], strict=True), [])
        except csv.Error as error:
            raise UsageError(f"{where}, line {number} is no line of CSV: {error}.") from error
        if fields:
            yield number, fields


def _from_json(where: str, text: str, classes: Classes) -> LabelFile:
    """Read ReaL's list, a list of classes for each image of ILSVRC's validation set, or {name: such a list}."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is no JSON: {shortened(str(error))}.") from error
    entries = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{where} needs a list with the classes of each image.")
    labels = [_label(entry, f"{where}, image {number}", classes) for number, entry in enumerate(entries, start=1)]
    if isinstance(content, dict):
        return LabelFile(where, dict(zip(content, labels, strict=True)), [])
    return LabelFile(where, {}, labels)


def _label(entry: object, place: str, classes: Classes) -> Label:
    words = entry if isinstance(entry, list) else [entry]
    found = tuple(classes.read(str(word), place) for word in words)
    return found if isinstance(entry, list) else found[0]


def real_labels(classes: Classes) -> LabelFile:
    """Return the ReaL labels that timm carries."""
    from importlib.resources import files

    text = (files("timm.data") / "_info" / "imagenet_real_labels.json").read_text(encoding="utf-8")
    return _from_json("ReaL", text, classes)


def ground_truth(where: str, text: str, ids: dict[int, str], classes: Classes) -> LabelFile:
    """Read the development kit's labels, ILSVRC's own numbers 1..1000; ids: their WordNet ids."""
    words = text.split()
    unknown = next((word for word in words if not _is_small(word) or int(word) not in ids), None)
    if unknown is not None or not words:
        raise UsageError(f"{where}: {shortened(unknown or '')!r} is no ILSVRC id 1..1000.")
    return LabelFile(where, {}, [classes.read(ids[int(word)], where) for word in words])


def _ids_beside(path: Path) -> dict[int, str]:
    meta, plain = path.with_name("meta.mat"), path.with_name(_MAP)
    if meta.is_file():
        return ilsvrc_ids(meta.read_bytes(), str(meta))
    rows = [line.split() for line in text_of(plain).splitlines()] if plain.is_file() else []
    if not rows or not all(len(row) > 1 and _is_small(row[1]) for row in rows):
        raise UsageError(
            f"{path} counts classes in an order of its own: meta.mat (or {_MAP}) of the development kit has to lie "
            "beside it."
        )
    return {int(number): wnid for wnid, number, *_ in rows}


def _is_small(word: str) -> bool:
    """Whether a word is a number that Python reads: of thousands of digits it reads none."""
    return word.isdecimal() and len(word) < 10


def ilsvrc_ids(content: bytes, where: str) -> dict[int, str]:
    """Return {ILSVRC id: WordNet id} of the development kit's meta.mat."""
    from scipy.io import loadmat

    try:
        rows = loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
    except Exception as error:  # scipy raises many kinds for what is no such file
        raise UsageError(f"{where} is no meta.mat of ILSVRC's development kit ({type(error).__name__}).") from error


def devkit(path: Path, classes: Classes) -> LabelFile:
    """Read the labels out of the development kit as it is downloaded (ILSVRC2012_devkit_t12.tar.gz)."""
    import tarfile

    try:
        with tarfile.open(path) as tar:
            inner = {posixpath.basename(member.name): member for member in tar if member.isfile()}
            streams = [tar.extractfile(inner[name]) for name in (GROUND_TRUTH, "meta.mat")]
            text, meta = (stream.read(_MOST_BYTES) if stream else b"" for stream in streams)
    except (tarfile.TarError, OSError, EOFError, KeyError) as error:
        raise UsageError(f"{path} cannot be read as ILSVRC's development kit: {error}.") from error
    return ground_truth(str(path), text.decode(errors="replace"), ilsvrc_ids(meta, str(path)), classes)
