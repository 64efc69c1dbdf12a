"""How stored rows are brought into model space: ranks, channels, scaling, labels."""

import hashlib

import numpy as np
import pytest

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.data.schema import class_ids, layout, scale_into, to_uniform
from flowpairs.pipeline.data.spec import data_fingerprint

UINT8, FLOAT, INT = np.dtype(np.uint8), np.dtype(np.float64), np.dtype(np.int32)


@pytest.mark.parametrize(
    ("stored", "dtype", "shape", "kind"),
    [
        ((5,), FLOAT, (5,), "vector"),
        ((5,), INT, (5,), "vector"),
        ((28, 28), UINT8, (1, 28, 28), "image"),
        ((28, 28), FLOAT, (1, 28, 28), "image"),
        ((32, 24, 3), UINT8, (3, 32, 24), "image"),
        ((3, 32, 24), UINT8, (3, 32, 24), "image"),
        ((32, 24, 1), FLOAT, (1, 32, 24), "image"),
        ((4, 32, 24), FLOAT, (4, 32, 24), "image"),
        ((16, 32, 32), FLOAT, (16, 32, 32), "image"),  # latents
    ],
)
def test_the_rank_decides_what_a_row_is(stored, dtype, shape, kind):
    assert layout(stored, dtype, "here") == (shape, kind)


@pytest.mark.parametrize(
    ("stored", "dtype", "says"),
    [
        ((784,), UINT8, "store images [H, W]"),
        ((28, 28), INT, "store them as uint8 or floats"),
        ((3, 8, 4), UINT8, "channels at either end"),
        ((8, 8, 8), UINT8, "channels at neither end"),
        ((2, 2, 2, 2), FLOAT, "neither a vector [d] nor an image"),
        ((), FLOAT, "neither a vector [d] nor an image"),
        ((5,), np.dtype("<U3"), "not a number"),
        ((5,), np.dtype(object), "not a number"),
        ((5,), np.dtype(bool), "not a number"),
        ((5,), np.dtype(complex), "not a number"),
        ((0,), FLOAT, "empty"),
    ],
)
def test_a_row_that_could_be_read_in_two_ways_or_none_is_refused(stored, dtype, says):
    with pytest.raises(InputError, match=r"^here: ") as refusal:
        layout(stored, dtype, "here")
    assert says in str(refusal.value)


def test_channels_last_and_channels_first_are_the_same_images():
    last = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), np.uint8)
    first = to_uniform(np.ascontiguousarray(np.transpose(last, (0, 3, 1, 2))), "here")
    uniform = to_uniform(last, "here")
    for n, y, x, c in np.ndindex(last.shape):
        assert uniform[n, c, y, x] == last[n, y, x, c] == first[n, c, y, x]


def test_all_256_grey_levels_fill_the_interval_from_minus_one_to_one_evenly():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    out = np.empty(levels.shape, np.float32)
    scale_into(out, levels)
    np.testing.assert_allclose(out.ravel(), np.linspace(-1, 1, 256), atol=1e-7)
    assert out.min() == -1
    assert out.max() == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_number_that_float32_cannot_hold_is_refused(bad):
    rows = np.zeros((3, 2))
    rows[1, 1] = bad
    with pytest.raises(InputError, match="here: NaN or Inf in the data"):
        to_uniform(rows, "here")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64, np.int64])
def test_integer_labels_of_any_width_become_int64(dtype):
    labels = class_ids(np.array([0, 3, 1], dtype), 3, "here")
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 3, 1]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.array([0.0, 1.0]), "labels of dtype float64"),
        (np.array(["a", "b"]), "labels of dtype"),
        (np.array([0, 1, 2]), "labels of shape [3] for 2 rows"),
        (np.array([[0], [1]]), "labels of shape [2, 1] for 2 rows"),
        (np.array([0, -1]), "label -1 is negative"),
    ],
)
def test_labels_that_are_no_class_ids_are_refused(labels, says):
    with pytest.raises(InputError) as refusal:
        class_ids(labels, 2, "here")
    assert says in str(refusal.value)


def test_the_fingerprint_is_the_sha256_of_shape_numbers_and_labels():
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    labels = np.array([2, 0, 1])
    assert data_fingerprint(x, None) == hashlib.sha256(b"(3, 2)" + x.tobytes()).hexdigest()
    assert data_fingerprint(x, labels) == hashlib.sha256(b"(3, 2)" + x.tobytes() + labels.tobytes()).hexdigest()
    assert data_fingerprint(x, None) != data_fingerprint(x.reshape(2, 3), None)
