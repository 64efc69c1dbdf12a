"""`check` finds every mistake that the files show, says it in one sentence, and never imports Ray."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.written import ROADS, npy, png, write, write_tar

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data import DataSpec, check_data, describe

GREY = np.zeros((4, 4), np.uint8)
COLOUR = np.zeros((4, 4, 3), np.uint8)


def refusal(path: Path | str, **options) -> str:
    with pytest.raises(InputError) as error:
        check_data(DataConfig(path=str(path), **options))
    assert "\n" not in str(error.value)
    return str(error.value)


def npz(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def parquet(path: Path, **columns) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("road", ["digits", *ROADS])
def test_check_never_imports_ray(road, cifar, tmp_path):
    images, labels = cifar
    config = DataConfig(path="digits") if road == "digits" else write(road, tmp_path, images[:20], labels[:20])
    code = (
        "import sys; from flowpairs.pipeline.config import DataConfig; from flowpairs.pipeline.data import check_data; "
        f"print(check_data({config!r})); assert not any(name.split('.')[0] == 'ray' for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr(check_data(config))


def test_check_counts_rows_classes_and_files(cifar, tmp_path):
    images, labels = cifar
    assert check_data(write("tars", tmp_path / "tars", images, labels)) == DataSpec(
        240, (3, 32, 32), 10, "image", 2, "uint8", columns=("png",), format="tars"
    )
    folder, names = write("folder", tmp_path / "folder", images, labels), tuple(f"class{label}" for label in range(10))
    assert check_data(folder) == DataSpec(240, (3, 32, 32), 10, "image", 240, "uint8", names, True, format="folder")
    assert check_data(folder.model_copy(update={"label": None})).num_classes == 0


def test_leftovers_of_tools_are_not_data(cifar, tmp_path):
    config = write("parquet", tmp_path, *cifar)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "old.parquet").write_bytes(b"junk")
    (tmp_path / "README.md").touch()
    assert check_data(config).rows == 240


def test_paths_that_hold_no_one_data_set(tmp_path):
    assert "no such file or directory" in refusal(tmp_path / "none.npz")
    assert "Protocol not known" in refusal("gopher://host/data.npz")
    assert "no known format" in refusal(tmp_path)
    (tmp_path / "a.xyz").touch()
    assert "no known format among .xyz" in refusal(tmp_path / "a.xyz")
    PIL.Image.fromarray(GREY).save(tmp_path / "a.png")
    assert "a single image is no data set" in refusal(tmp_path / "a.png")
    (tmp_path / "b.tar").touch()
    assert "holds 1 .png and 1 .tar files at once" in refusal(tmp_path)


def test_flips_need_images(tmp_path):
    path = npz(tmp_path / "a.npz", image=np.zeros((3, 2)))
    assert refusal(path, flips=True).startswith("data.flips=true: ")


def test_npz(tmp_path):
    path = npz(tmp_path / "a.npz", x=np.zeros((3, 2)), y=np.arange(4), bad=np.array([[0.0], [np.nan]]))
    assert refusal(path) == (
        "data.column='image': no such array; the file has x, y, bad; x, bad could be the data, name one"
    )
    assert refusal(path, column="x", label="z").startswith("data.label='z': no such array; the file has x, y, bad")
    assert "labels of shape [4] for 3 rows" in refusal(path, column="x", label="y")
    assert "labels of shape [3, 2] for 2 rows" in refusal(path, column="bad", label="x")
    assert "NaN or Inf" in refusal(path, column="bad")
    assert "neither a vector [d] nor an image" in refusal(path, column="y")
    assert "no rows" in refusal(npz(tmp_path / "b.npz", image=np.zeros((0, 2))))
    assert "dtype <U1" in refusal(npz(tmp_path / "c.npz", image=np.array([["a"], ["b"]])))
    assert "not a plain array" in refusal(npz(tmp_path / "d.npz", image=np.array([[None]])))
    (tmp_path / "e.npz").write_bytes(path.read_bytes()[:-40])
    assert "cannot be read as a .npz of plain arrays" in refusal(tmp_path / "e.npz", column="x")
    (tmp_path / "f.npz").write_bytes(npy(np.zeros((3, 2))))
    assert "is a single .npy array; name it .npy" in refusal(tmp_path / "f.npz", column="x")


def test_parquet(tmp_path):
    path = parquet(
        tmp_path / "a.parquet",
        x=[0.0, 1.0],
        text=["a", "b"],
        ragged=[[0.0], [1.0, 2.0]],
        holes=pa.array([[0.0], None]),
        gaps=[[0.0, None], [1.0, 2.0]],
        inf=[0.0, float("inf")],
        nested=[[[0.0]], [[1.0]]],
        hf=pa.array([{"bytes": png(GREY), "path": "a.png"}, {"bytes": None, "path": "b.png"}]),
        mixed=[png(GREY), png(COLOUR)],
        junk=[b"not", b"images"],
        label=pa.array([0, None]),
    )
    assert refusal(path, column="y").endswith(
        "it has x, text, ragged, holes, gaps, inf, nested, hf, mixed, junk, label"
    )
    assert "data.label='y': no such column" in refusal(path, column="x", label="y")
    assert "'text' is string" in refusal(path, column="text")
    assert "'text' is string" in refusal(path, column="x,text")
    assert "'ragged' is list" in refusal(path, column="x,ragged")
    assert "row 1: a row of shape [2] among rows of [1]" in refusal(path, column="ragged")
    assert "row 1: null" in refusal(path, column="holes")
    assert "null entries" in refusal(path, column="gaps")
    assert "NaN or Inf" in refusal(path, column="inf")
    assert check_data(DataConfig(path=str(path), column="nested")).shape == (1, 1, 1)
    assert "row 1: no image bytes" in refusal(path, column="hf")
    assert "a row of shape [3, 4, 4] among rows of [1, 4, 4]" in refusal(path, column="mixed")
    assert "not an image" in refusal(path, column="junk")
    assert "row 1: no label" in refusal(path, column="x", label="label")
    assert check_data(DataConfig(path=str(path), column="x", label="text")).class_names == ("a", "b")
    assert "labels of type struct" in refusal(path, column="x", label="hf")
    assert "no rows" in refusal(parquet(tmp_path / "b.parquet", x=pa.array([], pa.float32())), column="x")
    (tmp_path / "c.parquet").write_bytes(path.read_bytes()[:-9])
    assert "cannot be read as parquet" in refusal(tmp_path / "c.parquet", column="x")


def test_parquet_files_of_one_directory_must_agree(tmp_path):
    parquet(tmp_path / "a.parquet", x=[0.0], y=[0.0])
    parquet(tmp_path / "b.parquet", x=[1])
    assert "column 'x' is int64 in" in refusal(tmp_path, column="x")
    assert "data.column='y': no such column in" in refusal(tmp_path, column="y")


def test_rows_of_several_batches_must_agree(tmp_path):
    parquet(tmp_path / "a.parquet", x=[[0.0, 1.0]] * 300)
    parquet(tmp_path / "b.parquet", x=[[0.0]] * 300)
    assert "a row of shape [1] among rows of [2]" in refusal(tmp_path, column="x")


def test_image_folders(tmp_path):
    for name, image in {"a/0.png": GREY, "b/1.png": GREY}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(image).save(tmp_path / name)
    assert check_data(DataConfig(path=str(tmp_path), label="label")).num_classes == 2
    (tmp_path / "b" / "2.png").write_bytes(b"not an image")
    assert "2.png: not an image" in refusal(tmp_path)
    PIL.Image.fromarray(COLOUR).save(tmp_path / "b" / "2.png")
    assert "2.png: a row of shape [3, 4, 4] among rows of [1, 4, 4]" in refusal(tmp_path)
    PIL.Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "b" / "2.jpg")
    (tmp_path / "b" / "2.png").unlink()
    assert "2.jpg: image mode CMYK" in refusal(tmp_path)
    (tmp_path / "b" / "2.jpg").unlink()
    PIL.Image.fromarray(GREY).save(tmp_path / "0.png")
    assert "have no class folder" in refusal(tmp_path, label="label")


def test_tars(tmp_path):
    sample = {"0.png": png(GREY), "0.cls": b"3", "0.npy": npy(np.array([None]))}
    path = write_tar(tmp_path / "a.tar", sample)
    assert check_data(DataConfig(path=str(path), column="png", label="cls")) == DataSpec(
        1, (1, 4, 4), 4, "image", 1, "uint8", columns=("png",), format="tars"
    )
    assert "data.column='jpg': no such field in sample 0 of" in refusal(path, column="jpg")
    assert refusal(path, column="jpg").endswith("it has png, cls, npy")
    assert "data.label='txt': no such field" in refusal(path, column="png", label="txt")
    assert "a label that is not text" in refusal(path, column="png", label="npy")
    assert "never unpickled" in refusal(path, column="npy")
    assert "it has png, cls, npy; png, npy could be the data, name one" in refusal(path)
    for field in ["pyd", "pickle", "json"]:
        assert "not a field that is decoded" in refusal(path, column=field)
    whole = path.read_bytes()
    path.write_bytes(whole[: 2 * 512])  # between two members, which tarfile takes for the end
    assert "cut short" in refusal(path, column="png")
    path.write_bytes(b"no tar at all" * 100)
    assert "cannot be read as tar" in refusal(path, column="png")
    write_tar(path, {"0.png": png(GREY), "1.png": png(GREY), "0.cls": b"3"})
    assert "is not in one piece" in refusal(path, column="png")
    write_tar(path, {"0.npy": npy(np.zeros(2)), "1.npy": npy(np.zeros(3))})
    assert "a row of shape [3] among rows of [2]" in refusal(path, column="npy")
    write_tar(path, {"0.npy": npy(np.array([np.nan]))})
    assert "NaN or Inf" in refusal(path, column="npy")
    assert "no rows" in refusal(write_tar(tmp_path / "a.tar", {}), column="png")


def test_what_is_read_is_said_with_its_range_and_the_rows_of_its_classes(tmp_path):
    x = np.linspace(-2, 3, 60, dtype=np.float32).reshape(20, 3)
    labels = np.array([0] * 5 + [1] * 12 + [3] * 3)
    config = DataConfig(path=str(npz(tmp_path / "x.npz", x=x, y=labels)), column="x", label="y")
    said = "x: 20 rows, vectors [3] of float32 from -2 to 3, 4 classes of 0 to 12 rows, 1 npz file"
    assert describe(config, check_data(config)).endswith(said)
    names = parquet(tmp_path / "x.parquet", x=[[0, 255]] * 6, y=["b", "a", "b", "a", "a", "b"])
    config = DataConfig(path=str(names), column="x", label="y")
    assert "2 classes of 3 rows each (a, b)" in describe(config, check_data(config))
