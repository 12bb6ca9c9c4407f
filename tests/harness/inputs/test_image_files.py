"""Image files: every mode of Pillow shown right or refused by name, and a check that agrees with the decoder."""

from __future__ import annotations

import os
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from harness_kit import save_image
from numpy.typing import NDArray
from PIL import Image

from harness.inputs.image_sets import DataSource, checked, open_images
from harness.inputs.images.decoding import damaged, decode, fault, open_file, to_rgb
from harness.inputs.images.layouts import find_images
from harness.inputs.images.stores import FolderStore
from methods.errors import UsageError

GREYS = np.arange(256, dtype=np.uint8).reshape(16, 16)


def pixels(path: Path) -> NDArray[np.uint8]:
    return decode(partial(open_file, path), lambda image: torch.tensor(np.asarray(image))).numpy()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_greys_are_shown_as_the_same_picture_of_eight_bits(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(GREYS.astype(np.uint16) * 257).save(path)
    assert np.array_equal(pixels(path), np.stack([GREYS] * 3, axis=-1))


def test_sixteen_bit_greys_are_rounded() -> None:
    values = np.array([[0, 128, 129, 65406, 65407, 65535]], dtype=np.uint16)  # 257 k - 128.5 is the border to k
    assert np.asarray(to_rgb(Image.fromarray(values)))[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]


def test_big_endian_sixteen_bit_greys_are_read_in_their_order() -> None:
    image = Image.frombytes("I;16B", (2, 1), bytes([0x80, 0x80, 0x01, 0x01]))
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [128, 1]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
def test_other_modes_are_shown_as_torchvision_s_loader_shows_them(mode: str) -> None:
    image = Image.fromarray(np.stack([GREYS, GREYS.T, GREYS[::-1]], axis=-1))
    image = image.convert("L").convert(mode) if mode in {"1", "LA", "PA"} else image.convert(mode)
    assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_of_an_animation_the_first_picture_is_shown(tmp_path: Path, suffix: str) -> None:
    first, second = (Image.fromarray(np.full((8, 8, 3), grey, dtype=np.uint8)) for grey in (40, 200))
    first.save(tmp_path / f"x.{suffix}", save_all=True, append_images=[second], lossless=True)
    assert np.unique(pixels(tmp_path / f"x.{suffix}")).tolist() == [40]


def sixteen_bit_png(path: Path, kind: int, samples: list[int]) -> Path:
    """Write one pixel with 16 bits a channel; kind: PNG's colour type, 2 RGB, 4 grey with alpha, 6 RGB with alpha."""
    chunks = b""
    row = b"\0" + struct.pack(f">{len(samples)}H", *samples)
    head = struct.pack(">IIBBBBB", 1, 1, 16, kind, 0, 0, 0)
    for name, content in ((b"IHDR", head), (b"IDAT", zlib.compress(row)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.mark.parametrize(
    ("kind", "samples", "shown"),
    [
        (2, [0x1234, 0x80FF, 0xFFFF], [0x12, 0x80, 0xFF]),
        (4, [0x4321, 0x0000], [0x43] * 3),
        (6, [0x1234, 0x80FF, 0xFFFF, 0x0000], [0x12, 0x80, 0xFF]),
    ],
)
def test_of_sixteen_bit_colour_the_high_byte_is_shown(
    tmp_path: Path, kind: int, samples: list[int], shown: list[int]
) -> None:
    assert pixels(sixteen_bit_png(tmp_path / "x.png", kind, samples)).tolist() == [[shown]]


@pytest.mark.parametrize("suffix", ["heic", "jxl", "SVG"])
def test_pictures_that_nothing_here_decodes_are_named_not_passed_over(tmp_path: Path, suffix: str) -> None:
    save_image(tmp_path / "n01440764" / "good.png", 0)
    (tmp_path / "n01440764" / f"x.{suffix}").write_bytes(b"another format")
    with pytest.raises(UsageError, match=rf"1 of 2 images .*x\.{suffix}: no image"):
        checked(DataSource(str(tmp_path)), skip_bad=False)


@pytest.mark.parametrize("mode", ["I", "F", "La"])
def test_modes_without_a_known_range_are_refused_by_name(tmp_path: Path, mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode {mode} "):
        to_rgb(Image.new(mode, (4, 4)))
    if mode != "La":  # which no format stores
        Image.new(mode, (4, 4)).save(tmp_path / "x.tiff")
        (tmp_path / "x.tiff").rename(tmp_path / "x.png")
        assert f"mode {mode} " in (fault(partial(open_file, tmp_path / "x.png")) or "")


@pytest.mark.parametrize("size", [(6, 400), (400, 6), (1, 1), (7, 7), (8, 8), (9, 255)])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_check_passes_whatever_the_decoder_reads(
    tmp_path: Path, size: tuple[int, int], mode: str, progressive: bool
) -> None:
    path = tmp_path / "x.jpeg"
    Image.new(mode, size, 99).save(path, progressive=progressive)
    assert fault(partial(open_file, path)) is None
    assert pixels(path).shape == (size[1], size[0], 3)


def test_a_format_that_starts_programs_is_no_image_whatever_its_name(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.eps")
    path = (tmp_path / "x.eps").rename(tmp_path / "x.jpg")
    with Image.open(path) as image:
        assert image.format == "EPS"  # which Ghostscript would draw
    assert fault(partial(open_file, path)) == "no image"


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("size", [(13_000, 13_000), (1, 1_000_000), (300, 1)])
def test_giants_are_refused_by_their_size_before_they_are_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("1", size).save(tmp_path / "x.png")
    assert damaged(FolderStore(tmp_path).open, ["x.png"]) == {"x.png": f"{size[0]} x {size[1]} pixels"}
    with pytest.raises(ValueError, match="pixels"):
        pixels(tmp_path / "x.png")


def odd_folder(root: Path) -> Path:
    """A sound image beside a dangling link, a link to itself, a pipe and an empty folder, all named as images."""
    folder = root / "n01440764"
    save_image(folder / "good.JPEG", 0)
    (folder / "dangling.JPEG").symlink_to("/nowhere/x.JPEG")
    (folder / "loop.JPEG").symlink_to("loop.JPEG")
    os.mkfifo(folder / "pipe.JPEG")
    (folder / "folder.JPEG").mkdir()
    return root


def test_what_is_no_regular_file_is_named_and_may_be_left_out(tmp_path: Path) -> None:
    source = DataSource(str(odd_folder(tmp_path)))
    with pytest.raises(UsageError, match="3 of 4 images"):
        checked(source, skip_bad=False)
    assert open_images(checked(source, skip_bad=True)).identity()["n"] == 1
    why = damaged(FolderStore(tmp_path).open, [path for path, _ in find_images(tmp_path).files])
    assert why["n01440764/dangling.JPEG"] == "No such file or directory"
    assert why["n01440764/pipe.JPEG"] == "no regular file"


def test_a_table_may_name_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg", 0)
    (tmp_path / "b.jpg").symlink_to("/nowhere/b.jpg")
    (tmp_path / "labels.csv").write_text("path,label\na.jpg,1\nb.jpg,2\n")
    assert open_images(checked(DataSource(str(tmp_path)), skip_bad=True)).labels == [1]


def test_a_class_folder_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    save_image(tmp_path / "n01440764" / "a.jpg", 0)
    (tmp_path / "n01443537").symlink_to("/nowhere/n01443537")
    with pytest.raises(UsageError, match="n01443537 is a link"):
        find_images(tmp_path)


def test_what_macos_leaves_beside_images_is_passed_over(tmp_path: Path) -> None:
    save_image(tmp_path / "n01440764" / "a.jpg", 0)
    (tmp_path / "n01440764" / "._a.jpg").write_bytes(b"x")
    assert find_images(tmp_path).files == [("n01440764/a.jpg", 0)]
