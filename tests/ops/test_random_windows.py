"""Random windows of a batch inside a step."""

import jax
import numpy as np
from numpy.testing import assert_array_equal

from vtadl_jax.ops.random_windows import random_windows


def test_windows_are_inside_the_extent_and_masks_go_with_them():
    count, size = 200, (4, 4)
    image = np.broadcast_to(
        np.arange(100, dtype=np.uint8).reshape(1, 10, 10, 1), (count, 10, 10, 1)
    )
    batch = {
        "image": image,
        "mask": image[..., 0],
        "has_mask": np.ones(count, bool),
        "extent": np.array([[6, 9], [4, 4]] * (count // 2), np.int32),
    }
    keys = jax.random.split(jax.random.key(0), count)
    found = jax.jit(lambda keys, batch: random_windows(keys, batch, size))(keys, batch)
    assert sorted(found) == ["has_mask", "image", "mask"]
    assert_array_equal(found["image"][..., 0], found["mask"])
    first = np.asarray(found["mask"])[:, 0, 0]
    assert_array_equal(first[1::2], 0)
    assert set(first[::2] // 10) == {0, 1, 2}
    assert set(first[::2] % 10) == {0, 1, 2, 3, 4, 5}
    whole = image[0, :, :, 0]
    for at, part in zip(first, np.asarray(found["mask"]), strict=True):
        assert_array_equal(part, whole[at // 10 : at // 10 + 4, at % 10 : at % 10 + 4])
