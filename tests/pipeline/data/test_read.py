"""What is read is what numpy, PIL, pyarrow and scikit-learn give when they read the files."""

import functools
import http.server
import io
import re
import threading
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.datasets
from support.datasets import read_data
from support.written import ROADS, npy, write, write_tar

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data import check_data, list_pieces, read_piece


def scaled(images: np.ndarray) -> np.ndarray:
    """[n, h, w, c] -> [n, c, h, w] in [-1, 1], in float64."""
    return np.transpose(images, (0, 3, 1, 2)) / 127.5 - 1


@pytest.mark.parametrize("road", ROADS)
def test_every_format_gives_the_same_images_and_labels_in_the_same_order(road, cifar, tmp_path):
    images, labels = cifar
    config = write(road, tmp_path / "data", images, labels)
    spec = check_data(config)
    target = read_data(config, spec)
    assert (spec.rows, spec.shape, spec.num_classes, spec.kind) == (240, (3, 32, 32), 10, "image")
    assert target.x.dtype == np.float32
    assert target.x.flags.c_contiguous
    np.testing.assert_allclose(target.x, scaled(images), atol=1e-7)
    np.testing.assert_array_equal(target.labels, labels)
    assert target.num_classes == 10
    # Bit for bit, so that pairs do not depend on how the data were packed.
    assert target.fingerprint == read_data(config, spec).fingerprint
    npz = write("npz", tmp_path / "npz", images, labels)
    assert target.fingerprint == read_data(npz, check_data(npz)).fingerprint


def test_fashion_mnist_from_npz_is_what_numpy_loads(shared_data):
    path = shared_data / "fashion_mnist" / "train8000.npz"
    config = DataConfig(path=str(path), column="images", label="labels")
    target = read_data(config, check_data(config))
    with np.load(path) as archive:
        np.testing.assert_allclose(target.x[:, 0], archive["images"] / 127.5 - 1, atol=1e-7)
        np.testing.assert_array_equal(target.labels, archive["labels"])


def test_jpeg_parquet_is_what_pyarrow_and_pil_decode(shared_data):
    directory = shared_data / "cifar10_jpeg_parquet"
    config = DataConfig(path=str(directory), column="img", label="label")
    spec = check_data(config)
    target = read_data(config, spec)
    assert (spec.rows, spec.files, spec.shape, spec.num_classes) == (4000, 4, (3, 32, 32), 10)
    rows = [row for path in sorted(directory.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    decoded = np.stack([np.asarray(PIL.Image.open(io.BytesIO(row["img"]["bytes"]))) for row in rows])
    np.testing.assert_allclose(target.x, scaled(decoded), atol=1e-7)
    assert target.labels.tolist() == [row["label"] for row in rows]


def test_digits_are_scikit_learns_on_minus_one_to_one():
    config = DataConfig(path="digits")
    spec = check_data(config)
    target = read_data(config, spec)
    digits = sklearn.datasets.load_digits()
    assert (spec.rows, spec.shape, spec.num_classes, spec.kind, spec.files) == (1797, (1, 8, 8), 10, "image", 0)
    np.testing.assert_array_equal((target.x[:, 0] + 1) * 8, digits.images)
    np.testing.assert_array_equal(target.labels, digits.target)


def test_float_vectors_are_taken_as_they_are(shared_data):
    path = shared_data / "eb_embryoid" / "eb_2750.npz"
    config = DataConfig(path=str(path), column="X", label="ts")
    spec = check_data(config)
    target = read_data(config, spec)
    assert (spec.shape, spec.kind, spec.num_classes) == ((100,), "vector", 5)
    with np.load(path) as archive:
        np.testing.assert_array_equal(target.x, archive["X"])


def test_every_numeric_parquet_column_type_gives_the_same_rows(tmp_path, local_ray):
    import ray.data

    rows = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(rows.reshape(30, 2, 3))
    columns = {
        "list": pa.array(rows.tolist(), pa.list_(pa.float32())),
        "large": pa.array(rows.tolist(), pa.large_list(pa.float64())),
        "fixed": pa.FixedSizeListArray.from_arrays(rows.ravel(), 6),
        "tensor": tensors,
        **{f"c{i}": rows[:, i] for i in range(6)},
    }
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    for column in ["list", "large", "fixed", "tensor", "c0,c1, c2,c3,c4,c5"]:
        config = DataConfig(path=str(tmp_path / "data.parquet"), column=column)
        target = read_data(config, check_data(config))
        np.testing.assert_array_equal(target.x.reshape(30, 6), rows)
        assert target.x.shape[1:] == ((1, 2, 3) if column == "tensor" else (6,))
        assert target.labels is None
        assert target.num_classes == 0

    ray.data.from_numpy(rows.reshape(30, 2, 3)).write_parquet(str(tmp_path / "by_ray"))
    config = DataConfig(path=str(tmp_path / "by_ray"), column="data")
    np.testing.assert_array_equal(read_data(config, check_data(config)).x, rows.reshape(30, 1, 2, 3))


@pytest.mark.parametrize("format", ["parquet", "npy in tars"])
def test_rows_come_in_the_order_of_the_files_whatever_their_sizes(format, tmp_path):
    sizes = np.random.default_rng(0).integers(1, 400, 30)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for part in reversed(range(30)):
        rows = np.arange(starts[part], starts[part + 1], dtype=np.float32)
        if format == "parquet":
            pq.write_table(pa.table({"x": rows, "y": -rows}), tmp_path / f"{part:02d}.parquet", row_group_size=50)
        else:
            write_tar(tmp_path / f"{part:02d}.tar", {f"{r:09.0f}.npy": npy(np.array([r, -r])) for r in rows})
    config = DataConfig(path=str(tmp_path), column="x,y" if format == "parquet" else "npy")
    target = read_data(config, check_data(config))
    order = np.arange(starts[-1])
    np.testing.assert_array_equal(target.x, np.stack([order, -order], axis=1))


def test_a_sliced_list_column_keeps_its_rows(tmp_path):
    rows = np.arange(20.0).reshape(10, 2)
    whole = pa.FixedSizeListArray.from_arrays(rows.ravel(), 2)
    pq.write_table(pa.table({"x": whole}), tmp_path / "data.parquet", row_group_size=3)
    config = DataConfig(path=str(tmp_path / "data.parquet"), column="x")
    np.testing.assert_array_equal(read_data(config, check_data(config)).x, rows)


@pytest.mark.parametrize("road", ["npz", "parquet", "tars"])
def test_a_url_gives_what_the_local_file_gives(road, cifar, tmp_path):
    local = write(road, tmp_path, cifar[0][:40], cifar[1][:40])
    name = min(path.name for path in tmp_path.iterdir())
    local = local.model_copy(update={"path": str(tmp_path / name)})
    handler = functools.partial(RangeHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        remote = local.model_copy(update={"path": f"http://127.0.0.1:{server.server_port}/{name}"})
        spec = check_data(remote)
        target = read_data(remote, spec)
        server.shutdown()
    assert spec.rows == (None if road == "tars" else check_data(local).rows)
    assert target.fingerprint == read_data(local, check_data(local)).fingerprint


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files and, as any object store does, parts of files."""

    def do_GET(self):
        data = Path(self.translate_path(self.path)).read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-"))
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("road", ["folder", "tars", "parquet"])
def test_pixels_that_only_decoding_can_fault_are_refused_while_reading(road, cifar, tmp_path, monkeypatch):
    from support import written

    whole = written.png
    monkeypatch.setattr(written, "png", lambda image: whole(image)[:300])  # the header is there, the pixels are not
    config = write(road, tmp_path, cifar[0][:20], cifar[1][:20])
    spec = check_data(config)
    with pytest.raises(InputError, match="image cut short or corrupt"):
        read_data(config, spec)


def test_data_that_changed_since_they_were_checked_are_refused(cifar, tmp_path):
    config = write("npz", tmp_path, cifar[0][:20], cifar[1][:20])
    spec = check_data(config)
    write("npz", tmp_path, cifar[0][:19], cifar[1][:19])
    with pytest.raises(InputError, match="19 rows instead of 20"):
        read_data(config, spec)
    write("npz", tmp_path, cifar[0][:21], cifar[1][:21])
    with pytest.raises(InputError, match="changed while it was read"):
        read_data(config, spec)


def test_a_file_that_vanishes_while_it_is_read_is_refused(cifar, tmp_path):
    config = write("folder", tmp_path, cifar[0][:20], cifar[1][:20])
    spec = check_data(config)
    ((piece,),) = list_pieces(config, spec, None, 100)
    for path in tmp_path.glob("*/00003.png"):
        path.unlink()
    with pytest.raises(InputError, match="cannot see a file of it"):
        list(read_piece(config, spec, piece, []))
