"""How stored rows are brought into model space: ranks, channels, scaling, labels."""

import numpy as np
import pytest

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.data.labels import Classes, class_ids, ordered, plain_labels
from flowpairs.pipeline.data.schema import layout, scale_into, to_kept, to_uniform
from flowpairs.pipeline.data.spec import DataSpec

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


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (np.float64, "float32"),
        (np.float32, "float32"),
        (np.float16, "float16"),
        (np.int64, "float32"),
        (">f4", "float32"),
    ],
)
def test_rows_are_kept_in_the_dtype_that_they_came_in(stored, dtype):
    rows, finite = to_kept(np.array([[1.5, 2], [3, 4]]).astype(stored), "here")
    assert rows.dtype == dtype
    assert rows.dtype.isnative
    np.testing.assert_array_equal(rows, np.array([[1.5, 2], [3, 4]]).astype(stored))
    assert finite.all()
    assert to_kept(np.zeros((2, 4, 4), np.uint8), "here")[0].dtype == np.uint8


def numbered_as(labels, rows: int, complete=True):
    classes = Classes("here")
    values, missing = plain_labels(labels, rows, "here")
    assert not missing.any()
    classes.add(values)
    return values, *classes.numbering(complete)


def numbered(labels, complete=True) -> tuple[list[int], int, tuple[str, ...]]:
    """Class ids, the number of classes, their names."""
    values, count, names, by_name = numbered_as(labels, len(labels), complete)
    ids = class_ids(values, DataSpec(None, (1,), count, "vector", 1, "float32", names, by_name), "here")
    assert ids.dtype == np.int64
    return ids.tolist(), count, names


@pytest.mark.parametrize(
    ("labels", "ids", "names"),
    [
        (np.array([0, 3, 1], np.uint8), [0, 3, 1], ()),
        (np.array([0, 3, 1], np.int8), [0, 3, 1], ()),
        (np.array([0, 3, 1], np.uint64), [0, 3, 1], ()),
        (np.array([[0], [1], [1]]), [0, 1, 1], ()),
        (np.array([0.0, 1.0, 1.0]), [0, 1, 1], ()),
        ([b"0", b"12 ", b"3"], [0, 12, 3], ()),
        (["0", "2.0"], [0, 2], ()),
        (np.array([True, True]), [1, 1], ("False", "True")),
        (np.array(["cat", "dog", "cat", "ape"]), [1, 2, 1, 0], ("ape", "cat", "dog")),
        (["10", "9", "b", "a"], [1, 0, 3, 2], ("9", "10", "a", "b")),
        (np.array([b"b", b"a"]), [1, 0], ("a", "b")),
        (np.array([0, 7, 1440764]), [0, 1, 2], ("0", "7", "1440764")),
        (np.array([2**62, 5]), [1, 0], ("5", str(2**62))),
        (np.array([1990, 2010, 2000]), [0, 2, 1], ("1990", "2000", "2010")),
        (np.array([999, 3] * 60 + list(range(200))), [999, 3] * 60 + list(range(200)), ()),
    ],
)
def test_labels_of_any_type_are_classes(labels, ids, names):
    found, count, kept = numbered(labels)
    assert found == ids
    assert kept == names
    assert count == (len(names) or max(ids) + 1)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.array([0.5, 1.0]), "labels such as 0.5; give class ids or names"),
        (np.array([0, 1, 2]), "labels of shape [3] for 2 rows"),
        (np.array([[0, 1], [1, 0]]), "labels of shape [2, 2] for 2 rows"),
        (np.array([0, -1]), "label -1 is negative"),
        (np.array([1, 2**63 + 5], np.uint64), "label 9223372036854775813 is beyond 64 bits"),
        (np.array([1, 1j]), "labels of dtype complex128"),
        ([b"\xff", b"a"], "a label that is not text"),
        ([{}, {}], "a label of type dict"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, says):
    with pytest.raises(InputError) as refusal:
        numbered_as(labels, 2)
    assert says in str(refusal.value)


def test_what_is_missing_is_said_and_not_taken_for_a_class():
    assert plain_labels(np.array([1.0, np.nan]), 2, "here")[1].tolist() == [False, True]
    assert plain_labels(["a", None], 2, "here")[1].tolist() == [False, True]


def test_ids_that_only_a_mistake_explains_are_refused_where_not_all_labels_have_been_seen():
    assert numbered(np.array([3, 99_999]), complete=False)[1] == 100_000
    with pytest.raises(InputError, match="label 2000000 makes 2,000,001 classes"):
        numbered(np.array([3, 2_000_000]), complete=False)


def test_a_label_that_was_not_there_when_data_were_checked_is_refused():
    spec = DataSpec(None, (1,), 2, "vector", 1, "float32", ("a", "b"), True)
    with pytest.raises(InputError, match="here: label 'c' was not among those found"):
        class_ids(np.array(["a", "c"], object), spec, "here")


def test_names_that_are_numbers_are_in_the_order_of_numbers():
    assert ordered(["10", "9", "x", "b", "0"]) == ("0", "9", "10", "b", "x")
