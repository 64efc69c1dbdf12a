"""Every source gives the rows that numpy, torch, pandas or scipy wrote into it, in the dtype that they came in."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.written import npy, png, write_tar

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data import (
    Bad,
    DataSpec,
    check_data,
    count_rows,
    describe,
    files_of,
    list_pieces,
    read_piece,
)
from flowpairs.pipeline.data.formats import cells

RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((50, 6)).astype(np.float32)
LATENTS = RNG.standard_normal((20, 4, 8, 8)).astype(np.float16)
LABELS = np.arange(50) % 3
NAMES = np.array(["ape", "bee", "cow"])


def read(config: DataConfig, rows_per_piece: int = 7) -> tuple[DataSpec, dict[str, np.ndarray]]:
    """All rows, by pieces; none may be bad."""
    spec = check_data(config)
    counts = [count_rows(config, spec, file) for file in files_of(config)]
    assert spec.rows in (None, sum(counts))
    pieces = [piece for group in list_pieces(config, spec, counts, rows_per_piece) for piece in group]
    assert [piece.rows for piece in pieces[:-1]] == [rows_per_piece] * (len(pieces) - 1)
    bad: list[Bad] = []
    batches = [batch for piece in pieces for batch in read_piece(config, spec, piece, bad)]
    assert bad == []
    assert all(batch["x"].dtype == spec.dtype and batch["x"].shape[1:] == spec.shape for batch in batches)
    assert str(spec.shape[0]) in describe(config, spec)
    return spec, {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def data(path: Path, **options) -> DataConfig:
    return DataConfig(path=str(path), **options)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz(save, order, tmp_path):
    save(tmp_path / "a.npz", z=np.asarray(VECTORS, order=order), y=NAMES[LABELS], t=LABELS * 0.5)
    config = data(tmp_path / "a.npz", label="y", time="t")
    spec, found = read(config)
    np.testing.assert_array_equal(found["x"], VECTORS)
    np.testing.assert_array_equal(found["label"], LABELS)
    np.testing.assert_array_equal(found["time"], LABELS * 0.5)
    assert (spec.columns, spec.class_names, spec.dtype) == (("z",), ("ape", "bee", "cow"), "float32")
    groups = list_pieces(config, spec, None, 7)
    # A compressed array is read from its beginning on, so that one task reads all its pieces.
    assert len(groups) == (1 if save is np.savez_compressed and order == "C" else 8)


def test_pieces_of_a_compressed_array_come_right_in_any_order(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", z=VECTORS)
    config = data(tmp_path / "a.npz")
    spec = check_data(config)
    ((*pieces,),) = list_pieces(config, spec, None, 8)
    for number in (3, 0, 1, 6, 2, 2, 5):
        (batch,) = read_piece(config, spec, pieces[number], [])
        np.testing.assert_array_equal(batch["x"], VECTORS[8 * number : 8 * number + 8])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i8"])
def test_one_npy(dtype, tmp_path):
    values = (VECTORS * 9).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    spec, found = read(data(tmp_path / "a.npy"))
    np.testing.assert_array_equal(found["x"], values.astype(np.float32))
    assert spec.dtype == ("float16" if dtype == "f2" else "float32")
    with pytest.raises(InputError, match="holds one array, without names"):
        check_data(data(tmp_path / "a.npy", label="y"))


def test_a_folder_of_npy_latents(tmp_path):
    for number, latent in enumerate(LATENTS):
        path = tmp_path / str(number % 2) / f"{number:03d}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, latent if number % 3 else latent[None])
    spec, found = read(data(tmp_path, label="label"))
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    np.testing.assert_array_equal(found["x"], LATENTS[order])
    np.testing.assert_array_equal(found["label"], np.array(order) % 2)
    assert (spec.dtype, spec.class_names) == ("float16", ("0", "1"))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_tensors(suffix, tmp_path):
    from safetensors.torch import save_file

    save = torch.save if suffix == "pt" else lambda tensors, path: save_file(tensors, path)
    tensors = {"z": torch.from_numpy(LATENTS), "y": torch.arange(20) % 3}
    path = tmp_path / f"a.{suffix}"
    save(tensors, path)
    spec, found = read(data(path, label="y"))
    np.testing.assert_array_equal(found["x"], LATENTS)
    np.testing.assert_array_equal(found["label"], np.arange(20) % 3)
    assert (spec.columns, spec.dtype) == (("z",), "float16")
    save({"z": tensors["z"].bfloat16()}, path)
    spec, found = read(data(path))
    np.testing.assert_array_equal(found["x"], tensors["z"].bfloat16().float().numpy())
    assert spec.dtype == "float32"


def test_one_tensor(tmp_path):
    torch.save(torch.from_numpy(VECTORS), tmp_path / "a.pt")
    np.testing.assert_array_equal(read(data(tmp_path / "a.pt"))[1]["x"], VECTORS)


def test_a_file_that_torch_would_unpickle_is_refused(tmp_path):
    torch.save({"z": torch.ones(3, 2), "model": torch.nn.Linear(2, 2)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="is not a file of tensors alone"):
        check_data(data(tmp_path / "a.pt"))


def test_a_forged_header_of_safetensors_is_refused_before_memory_is_asked_for(tmp_path):
    header = b'{"z":{"dtype":"F32","shape":[1099511627776,4],"data_offsets":[0,17592186044416]}}'
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(InputError, match="17,592,186,044,416 bytes for"):
        check_data(data(tmp_path / "a.safetensors"))
    (tmp_path / "a.safetensors").write_bytes((2**62).to_bytes(8, "little") + bytes(64))
    with pytest.raises(InputError, match="a header of 4,611,686,018,427,387,904 bytes"):
        check_data(data(tmp_path / "a.safetensors"))


def images(count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    return RNG.integers(0, 256, (count, 8, 6, 3), np.uint8), np.arange(count) % 3


def dataset(kind: str, pixels: np.ndarray, labels: np.ndarray):
    """A data set of Hugging Face's library."""
    import datasets

    names = datasets.ClassLabel(names=["cow", "ape", "bee"])
    features = {
        "image": datasets.Image(),
        "array": datasets.Array3D((8, 6, 3), "uint8"),
        "nested": datasets.List(datasets.List(datasets.List(datasets.Value("uint8")))),
        "large": datasets.LargeList(datasets.List(datasets.List(datasets.Value("uint8")))),
    }
    values = [PIL.Image.fromarray(one) for one in pixels] if kind == "image" else list(pixels)
    return datasets.Dataset.from_dict(
        {kind: values, "label": labels}, datasets.Features({kind: features[kind], "label": names})
    )


@pytest.mark.parametrize("kind", ["image", "array", "nested", "large"])
@pytest.mark.parametrize("saved", ["disk", "parquet"])
def test_hugging_face_data_sets(kind, saved, tmp_path):
    pixels, labels = images()
    held = dataset(kind, pixels, labels)
    if saved == "disk":
        held.save_to_disk(str(tmp_path / "set"), num_shards=2)
    else:
        (tmp_path / "set").mkdir()
        held.to_parquet(str(tmp_path / "set" / "0.parquet"))
    spec, found = read(data(tmp_path / "set", label="label"))
    np.testing.assert_array_equal(found["x"], pixels.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(found["label"], labels)
    assert (spec.class_names, spec.dtype, spec.num_classes) == (("cow", "ape", "bee"), "uint8", 3)


def test_a_dict_of_hugging_face_data_sets_has_splits(tmp_path):
    import datasets

    pixels, labels = images()
    both = {"train": dataset("image", pixels, labels), "test": dataset("image", pixels[:3], labels[:3])}
    datasets.DatasetDict(both).save_to_disk(str(tmp_path))
    with pytest.raises(
        InputError, match=r"holds the splits test \(1 files\), train \(1 files\); choose one with data.s"
    ):
        check_data(data(tmp_path))
    assert check_data(data(tmp_path, split="train")).rows == 12
    assert check_data(data(tmp_path, split="test")).rows == 3


def test_arrow_files(tmp_path):
    table = pa.table({"z": VECTORS.tolist(), "y": LABELS})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=11)
    _, found = read(data(tmp_path / "a.arrow", label="y"))
    np.testing.assert_array_equal(found["x"], VECTORS)
    np.testing.assert_array_equal(found["label"], LABELS)


def test_every_type_of_arrow_that_can_hold_images(tmp_path):
    pixels, _ = images(4)
    encoded = [png(one) for one in pixels]
    longest = max(map(len, encoded))
    padded = [one + bytes(longest - len(one)) for one in encoded]  # PNG ends where it says
    types = {"binary": pa.binary(), "large_binary": pa.large_binary(), "view": pa.binary_view()}
    for name, kind in (types | {"fixed": pa.binary(longest)}).items():
        with pa.ipc.new_stream(tmp_path / f"{name}.arrow", pa.schema([("image", kind)])) as stream:
            stream.write_table(pa.table({"image": pa.array(padded, kind)}))
        _, found = read(data(tmp_path / f"{name}.arrow"))
        np.testing.assert_array_equal(found["x"], pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_tables_as_text(name, tmp_path):
    frame = pd.DataFrame(VECTORS, columns=list("abcdef")).assign(day=LABELS / 2, kind=NAMES[LABELS], note="x")
    frame.to_csv(tmp_path / name, index=False, sep="\t" if "tsv" in name else ",")
    config = data(tmp_path / name, label="kind", time="day")
    spec, found = read(config)
    np.testing.assert_array_equal(found["x"], VECTORS)
    np.testing.assert_array_equal(found["label"], LABELS)
    np.testing.assert_array_equal(found["time"], LABELS / 2)
    assert spec.columns == tuple("abcdef")
    assert len(list_pieces(config, spec, [50], 7)) == 1
    np.testing.assert_array_equal(read(data(tmp_path / name, column="c, a"))[1]["x"], VECTORS[:, [2, 0]])


def test_tables_as_text_that_are_refused(tmp_path):
    def refusal(text: str, **options) -> str:
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(InputError) as error:
            check_data(data(tmp_path / "a.csv", **options))
        return str(error.value)

    assert "the first line of" in refusal("1,2\n3,4\n")
    assert "no such column" in refusal("a,b\n1,2\n", column="c")
    assert "invalid value 'x'" in refusal("a,b\n1,2\nx,4\n", column="a,b")
    assert "row 1: null" in refusal("a,b\n1,2\n3,\n")
    assert "no column of numbers" in refusal("a,b\nx,y\n")
    assert "has the column 'a' twice" in refusal("a,a\n1,2\n")
    assert "NaN, Inf or null in data.time='t'" in refusal("a,t\n1,2\n3,\n", time="t")


@pytest.mark.parametrize("sparse", [None, "csr_matrix", "csc_matrix"])
@pytest.mark.filterwarnings("ignore")
def test_cells(sparse, tmp_path):
    anndata = pytest.importorskip("anndata")
    import scipy.sparse

    matrix = np.where(VECTORS > 0, VECTORS, 0)
    index = pd.Index([f"c{i}" for i in range(50)], dtype=object)
    kinds = pd.Categorical(NAMES[LABELS].astype(object), categories=pd.Index(NAMES.astype(object), dtype=object))
    obs = pd.DataFrame({"kind": kinds, "day": LABELS / 2}, index=index)
    written = anndata.AnnData(matrix if sparse is None else getattr(scipy.sparse, sparse)(matrix), obs=obs)
    written.obsm["X_pca"] = VECTORS[:, :3].copy()
    anndata.settings.allow_write_nullable_strings = True
    written.write_h5ad(tmp_path / "a.h5ad")
    spec, found = read(data(tmp_path / "a.h5ad", label="kind", time="day"))
    np.testing.assert_array_equal(found["x"], matrix)
    np.testing.assert_array_equal(found["label"], LABELS)
    np.testing.assert_array_equal(found["time"], LABELS / 2)
    assert (spec.columns, spec.class_names) == (("X",), ("ape", "bee", "cow"))
    for column in ("obsm/X_pca", "X_pca"):
        np.testing.assert_array_equal(read(data(tmp_path / "a.h5ad", column=column))[1]["x"], VECTORS[:, :3])
    with pytest.raises(InputError, match=r"no such matrix in .* it has X, obsm/X_pca"):
        check_data(data(tmp_path / "a.h5ad", column="Y"))
    with pytest.raises(InputError, match=r"data.label='x': no such column of obs in .* it has kind, day"):
        check_data(data(tmp_path / "a.h5ad", label="x"))


def test_cells_without_the_package_are_refused(tmp_path, monkeypatch):
    from flowpairs.pipeline.base import environment

    (tmp_path / "a.h5ad").write_bytes(b"\x89HDF")
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs h5py, not installed here; pip install 'flowpairs\[cells\]'"):
        check_data(data(tmp_path / "a.h5ad"))


def test_cells_that_hdf5_would_read_forever_are_refused(tmp_path, monkeypatch):
    """The space left at the end of a heap of strings, of size 0: HDF5 2.0 looks for what follows at the same byte."""
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr(cells, "PATIENCE", 1)
    for name in ("a.h5ad", "endless.h5ad"):
        with h5py.File(tmp_path / name, "w") as file:
            file["X"] = VECTORS
            file["obs/kind"] = np.arange(len(VECTORS))
            file["obs"].attrs["column-order"] = ["kind"]
    content = bytearray((tmp_path / "endless.h5ad").read_bytes())
    free = content.index(b"GCOL") + 16 + 24  # after the heap's header and its only string
    assert content[free : free + 8] == bytes(8)
    assert content[free + 8 : free + 16] != bytes(8)
    content[free + 8 : free + 16] = bytes(8)
    (tmp_path / "endless.h5ad").write_bytes(content)
    assert check_data(data(tmp_path / "a.h5ad", label="kind")).rows == len(VECTORS)
    with pytest.raises(InputError, match=r"endless\.h5ad is damaged, HDF5 reads it without an end; write it again"):
        check_data(data(tmp_path / "*.h5ad", label="kind"))


@pytest.mark.parametrize("suffix", ["png", "gif", "webp", "bmp", "tif", "avif", "jfif", "ppm", "tga", "jp2"])
def test_images_of_every_format_are_what_pil_decodes(suffix, tmp_path):
    pixels, labels = images(6)
    expected = []
    for number, (one, label) in enumerate(zip(pixels, labels, strict=True)):
        path = tmp_path / f"c{label}" / f"{number}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(one).save(path)
        with PIL.Image.open(path) as image:
            expected.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    _, found = read(data(tmp_path, label="label"), rows_per_piece=4)
    order = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(found["x"], np.stack(expected)[order])


def test_threads_change_nothing(tmp_path):
    pixels, labels = images(40)
    pq.write_table(pa.table({"image": [png(one) for one in pixels], "label": labels}), tmp_path / "a.parquet")
    config = data(tmp_path / "a.parquet")
    spec = check_data(config)
    ((piece,),) = list_pieces(config, spec, None, 40)
    (batch,) = read_piece(config, spec, piece, [], threads=4)
    np.testing.assert_array_equal(batch["x"], pixels.transpose(0, 3, 1, 2))


def test_joined_tars_are_read_on(tmp_path):
    parts = []
    for name, rows in (("a", VECTORS[:5]), ("b", VECTORS[5:9])):
        path = write_tar(tmp_path / name, {f"{name}{i}.npy": npy(row) for i, row in enumerate(rows)})
        parts.append(path.read_bytes())
    (tmp_path / "both.tar").write_bytes(b"".join(parts))
    _, found = read(data(tmp_path / "both.tar"), rows_per_piece=2)
    np.testing.assert_array_equal(found["x"], VECTORS[:9])
    (tmp_path / "both.tar").write_bytes(parts[0] + b"junk" * 256)
    with pytest.raises(InputError, match="cannot be read as tar"):
        check_data(data(tmp_path / "both.tar"))


def test_a_piece_is_small_and_stands_for_itself(tmp_path):
    import pickle

    np.save(tmp_path / "a.npy", VECTORS)
    config = data(tmp_path / "a.npy")
    spec = check_data(config)
    groups = list_pieces(config, spec, None, 20)
    assert len(pickle.dumps(groups[1][0])) < 1000
    piece = pickle.loads(pickle.dumps(groups[1][0]))
    (batch,) = read_piece(config, spec, piece, [])
    np.testing.assert_array_equal(batch["x"], VECTORS[20:40])


def test_gzip_that_is_cut_short_is_refused(tmp_path):
    text = "a,b\n" + "".join(f"{a},{b}\n" for a, b in VECTORS[:, :2])
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode())[:-20])
    with pytest.raises(InputError, match="cannot be read as a table of numbers"):
        check_data(data(tmp_path / "a.csv.gz"))
