"""The procedural held-out set."""

from __future__ import annotations

import numpy as np

from harness.inputs.dead_leaves import dead_leaves
from harness.inputs.image_sets import DataSource, open_images


def test_images_are_fixed_and_differ() -> None:
    first, second = dead_leaves(4, 64), dead_leaves(6, 64)
    assert first.shape == (4, 64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, second[:4]), "image i does not depend on how many there are"
    assert len({image.tobytes() for image in second}) == 6


def test_images_are_made_of_flat_leaves_of_many_colours() -> None:
    for image in dead_leaves(3, 128):
        colours = len(np.unique(image.reshape(-1, 3), axis=0))
        assert 30 <= colours <= 401, "at most one colour per disc and one for the ground"
        flat = (image[:, 1:] == image[:, :-1]).all(-1).mean()
        assert 0.7 < flat < 0.99, "neighbours are mostly of one leaf, with edges between leaves"


def test_the_set_has_no_labels() -> None:
    images = open_images(DataSource("dead-leaves", limit=3))
    assert images.labels is None
    assert (images.name, len(images)) == ("dead-leaves", 3)
