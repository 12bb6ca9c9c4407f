"""Image folders: labels from WordNet ids or a table, and damaged files."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness_kit import flat_folder, save_image

from harness.inputs.image_sets import DataSource, checked, open_images
from harness.inputs.images.decoding import damaged
from harness.inputs.images.labels import class_index
from harness.inputs.images.layouts import find_images
from harness.inputs.images.sets import StoredImages
from harness.inputs.images.stores import FolderStore
from methods.errors import UsageError

WNIDS = {"n01440764": 0, "n01443537": 1, "n01484850": 2, "n02099601": 207, "n02504458": 386, "n15075141": 999}


def class_folders(root: Path, wnids: dict[str, int] | None = None) -> Path:
    for number, wnid in enumerate(wnids or WNIDS):
        save_image(root / wnid / f"{number}.JPEG", number)
    return root


def test_class_indices_are_places_among_the_sorted_ids() -> None:
    index = class_index()
    assert len(index) == 1000
    assert sorted(index) == list(index)
    assert list(index.values()) == list(range(1000))
    assert {wnid: index[wnid] for wnid in WNIDS} == WNIDS  # tench, goldfish, shark, retriever, elephant, paper


def test_a_subset_of_class_folders_keeps_its_indices(tmp_path: Path) -> None:
    files = find_images(class_folders(tmp_path)).files
    assert files == [(f"{wnid}/{number}.JPEG", label) for number, (wnid, label) in enumerate(WNIDS.items())]


def test_other_files_and_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    class_folders(tmp_path, {"n02504458": 386})
    (tmp_path / "n02504458" / "notes.txt").write_text("x")
    (tmp_path / "README.md").write_text("x")
    (tmp_path / ".cache").mkdir()
    save_image(tmp_path / "n02504458" / "b.png", 1)
    assert find_images(tmp_path).files == [("n02504458/0.JPEG", 386), ("n02504458/b.png", 386)]


def test_a_table_gives_indices_and_ids(tmp_path: Path) -> None:
    flat_folder(tmp_path, 3)
    (tmp_path / "labels.csv").write_text("label,path\n7,2.jpg\nn02504458,0.jpg\n999,1.jpg\n")
    assert find_images(tmp_path).files == [("0.jpg", 386), ("1.jpg", 999), ("2.jpg", 7)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\n0.jpg,1000\n", ["line 2", "'1000'", "0..999"]),
        ("path,label\n0.jpg,1\n1.jpg,n99999999\n", ["line 3", "n99999999"]),
        ("path,label\n0.jpg,-1\n", ["'-1'"]),
        ("path,label\n0.jpg,²\n", ["'²'"]),
        ("path,label\n0.jpg\n", ["line 2"]),
        ("label,path\n1,0.jpg\n2\n", ["line 3", "no file ''"]),
        ("path,label\n0.jpg," + "9" * 5000 + "\n", ["line 2", "(5000 characters)"]),
        ("path,label\n" + "a" * 5000 + ".jpg,1\n", ["line 2", "(5004 characters)"]),
        ("path,label\n0.jpg,1\n" + "a" * 200_000 + ",1\n", ["line 3"]),
        ('path,label\n0.jpg,1\n"1.jpg,1\n0.jpg,3\n', ["line 3", "CSV"]),
        ("path,label\n0\0.jpg,1\n", ["line 2"]),
        ("path,label\n0.jpg,1\n1.jpg,1\n./0.jpg,2\n", ["line 4", "'0.jpg' is there twice"]),
        ("path,label\nmissing.jpg,1\n", ["line 2", "missing.jpg"]),
        ("file,class\n0.jpg,1\n", ["path,label"]),
        ("", ["path,label"]),
        ("path,label\n", ["no images"]),
        ("path,label,label\n0.jpg,1,2\n", ["two columns of one name", "'path,label,label'"]),
    ],
)
def test_bad_tables_are_named_with_the_line(tmp_path: Path, text: str, words: list[str]) -> None:
    flat_folder(tmp_path, 2)
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError) as error:
        find_images(tmp_path)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    flat_folder(tmp_path, 2)
    (tmp_path / "labels.csv").write_bytes(b"path,label\n\xff\xfe\x80,3\n")
    with pytest.raises(UsageError, match=r"labels\.csv"):
        find_images(tmp_path)


def test_unknown_class_folders_are_named_and_counted(tmp_path: Path) -> None:
    class_folders(tmp_path, {"n01440764": 0})
    for name in ("cats", "dogs"):
        save_image(tmp_path / name / "a.jpg", 0)
    with pytest.raises(UsageError, match="2 folders") as error:
        find_images(tmp_path)
    assert "cats, dogs" in str(error.value)
    assert "WordNet" in str(error.value)


def test_folders_without_images_or_without_being_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "n01440764").mkdir()
    with pytest.raises(UsageError, match="no images"):
        find_images(tmp_path)
    with pytest.raises(UsageError, match="no data folder"):
        find_images(tmp_path / "absent")
    (tmp_path / "file.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="no data folder"):
        find_images(tmp_path / "file.jpg")


def damaged_folder(root: Path) -> Path:
    """Six images of which two are damaged: one cut in half, one of other bytes."""
    class_folders(root)
    cut = root / "n01443537" / "1.JPEG"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (root / "n02504458" / "4.JPEG").write_bytes(b"<html>not found</html>")
    return root


def test_damaged_images_are_found(tmp_path: Path) -> None:
    root = damaged_folder(tmp_path)
    paths = [path for path, _ in find_images(root).files]
    assert list(damaged(FolderStore(root).open, paths)) == ["n01443537/1.JPEG", "n02504458/4.JPEG"]


def test_damaged_images_stop_the_run_named_and_counted(tmp_path: Path) -> None:
    root = damaged_folder(tmp_path)
    with pytest.raises(UsageError, match="2 of 6 images") as error:
        checked(DataSource(str(root)), skip_bad=False)
    for word in ("n01443537/1.JPEG", "n02504458/4.JPEG", "--skip-bad-images"):
        assert word in str(error.value)


def test_damaged_images_may_be_left_out(tmp_path: Path) -> None:
    images = open_images(checked(DataSource(str(damaged_folder(tmp_path))), skip_bad=True))
    assert images.labels == [0, 2, 207, 999]
    assert images.identity()["n"] == 4


@pytest.mark.parametrize("limit", [1, 3, 4, 5])
def test_a_subset_holds_only_sound_images_when_damaged_ones_are_left_out(tmp_path: Path, limit: int) -> None:
    source = checked(DataSource(str(damaged_folder(tmp_path)), limit), skip_bad=True)
    images = open_images(source)
    assert isinstance(images, StoredImages)
    assert damaged(images.store.open, [path for path, _ in images.files]) == {}
    assert len(images) == min(limit, 4)


def test_sound_folders_are_left_as_they_are(tmp_path: Path) -> None:
    source = DataSource(str(class_folders(tmp_path)))
    assert checked(source, skip_bad=False) == source


def test_a_folder_of_damaged_images_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n01440764").mkdir()
    (tmp_path / "n01440764" / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="no readable image"):
        checked(DataSource(str(tmp_path)), skip_bad=True)


def test_the_identity_follows_files_sizes_and_labels(tmp_path: Path) -> None:
    roots = [class_folders(tmp_path / name / "val") for name in "abcd"]
    save_image(roots[1] / "n01440764" / "new.JPEG", 77)
    (roots[2] / "n01440764").rename(roots[2] / "n01491361")
    with (roots[3] / "n01440764" / "0.JPEG").open("ab") as stream:
        stream.write(b"\0")
    found = [open_images(DataSource(str(root))).identity() for root in roots]
    assert len({identity["sha256"] for identity in found}) == 4
    assert [identity["n"] for identity in found] == [6, 7, 6, 6]
    assert {identity["name"] for identity in found} == {"val"}
    again = open_images(DataSource(str(class_folders(tmp_path / "e" / "val")))).identity()
    assert again == found[0], "the same files elsewhere are the same images"
