"""Data that would come in wrong without a word: each kind is read right, or refused in one sentence that counts it."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.datasets import read_data
from support.written import npy, png, write_tar

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data import Bad, check_data, list_pieces, read_piece, refusal

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)
COLOUR = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def data(path: Path, **options) -> DataConfig:
    return DataConfig(path=str(path), **options)


def refused(path: Path, **options) -> str:
    with pytest.raises(InputError) as error:
        check_data(data(path, **options))
    return str(error.value)


def rows_of(config: DataConfig) -> np.ndarray:
    """Stored rows, before they are scaled."""
    spec, bad = check_data(config), []
    pieces = [piece for group in list_pieces(config, spec, None, 1000) for piece in group]
    return np.concatenate([batch["x"] for piece in pieces for batch in read_piece(config, spec, piece, bad)])


def encoded(image: PIL.Image.Image, form: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def put(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


# B1: orientation


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "tiff", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_as_viewers_do(form, orientation, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    content = encoded(PIL.Image.fromarray(COLOUR), form, exif=exif)
    plain = np.asarray(PIL.Image.open(io.BytesIO(encoded(PIL.Image.fromarray(COLOUR), form))).convert("RGB"))
    turned = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[:, ::-1],
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a.swapaxes(0, 1)[::-1],
    }[orientation](plain)
    put(tmp_path / "folder", {f"1.{form}": content})
    pq.write_table(pa.table({"image": [content]}), tmp_path / "a.parquet")
    write_tar(tmp_path / "a.tar", {f"1.{form}": content})
    for path in (tmp_path / "folder", tmp_path / "a.parquet", tmp_path / "a.tar"):
        np.testing.assert_array_equal(rows_of(data(path))[0], turned.transpose(2, 0, 1))


# B3: dtypes


def test_arrays_of_several_dtypes_are_refused_not_scaled_by_batch(tmp_path):
    white, whitef = np.full((4, 4), 255, np.uint8), np.ones((4, 4), np.float32)
    path = write_tar(tmp_path / "a.tar", {"0.npy": npy(white), "1.npy": npy(white), "2.npy": npy(whitef)})
    assert "1 row cannot be used" in refused(path)
    assert "a.tar row 2 (2): a row of float32 among rows of uint8" in refused(path)
    put(tmp_path / "arrays", {"0.npy": npy(white), "1.npy": npy(whitef)})
    assert "1.npy: a row of float32 among rows of uint8" in refused(tmp_path / "arrays")


# B4: frames, modes


def png16() -> bytes:
    """A PNG of 16 bits a channel, which PIL halves."""

    def part(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + bytes(range(24)) for _ in range(4)))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", body) + part(b"IEND", b"")


FRAMES = [PIL.Image.fromarray(GREY), PIL.Image.fromarray(GREY[::-1].copy())]
ODD = {
    "frames.gif": (encoded(FRAMES[0], "gif", save_all=True, append_images=FRAMES[1:]), "image of 2 frames"),
    "frames.png": (encoded(FRAMES[0], "png", save_all=True, append_images=FRAMES[1:]), "image of 2 frames"),
    "frames.webp": (encoded(FRAMES[0], "webp", save_all=True, append_images=FRAMES[1:]), "image of 2 frames"),
    "frames.tif": (encoded(FRAMES[0], "tiff", save_all=True, append_images=FRAMES[1:]), "image of 2 frames"),
    "cmyk.jpg": (encoded(PIL.Image.fromarray(COLOUR).convert("CMYK"), "jpeg"), "image mode CMYK"),
    "deep.png": (encoded(PIL.Image.fromarray(GREY.astype(np.uint16) * 257), "png"), "image mode I;16"),
    "float.tif": (encoded(PIL.Image.fromarray(GREY.astype(np.float32)), "tiff"), "image mode F"),
    "deep_colour.png": (png16(), "image of 16 bits a channel"),
    "pointer.png": (POINTER, "a Git LFS pointer; run `git lfs pull`"),
    "empty.png": (b"", "a file of 0 bytes"),
    "junk.png": (b"not an image", "not an image that can be read"),
    "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not an image that can be read"),
}


def test_every_image_that_cannot_be_used_is_listed_at_once_or_left_out(tmp_path, capsys):
    put(tmp_path, {f"good{number}.png": png(GREY) for number in range(3)})
    put(tmp_path, {f"a/{name}": content for name, (content, _) in ODD.items()})
    told = refused(tmp_path)
    assert "12 rows cannot be used" in told
    assert "4: " in told
    assert told.endswith("Mend them, or leave them out with data.on_bad=skip")
    for name, (content, reason) in ODD.items():
        put(tmp_path / name, {"0.png": png(GREY), name: content})
        alone = refused(tmp_path / name)
        assert f"{name}: {reason}" in alone
    capsys.readouterr()
    spec = check_data(data(tmp_path, on_bad="skip"))
    assert spec.rows == 15 + 2 * 12
    assert "cannot be used" in capsys.readouterr().err
    assert len(rows_of(data(tmp_path, on_bad="skip"))) == 3 + 12
    assert len(read_data(data(tmp_path, on_bad="skip"), spec).x) == 3 + 12


def test_transparency_is_a_fourth_channel_and_a_palette_is_colours(tmp_path):
    palette = PIL.Image.fromarray(COLOUR).convert("P")
    put(tmp_path / "a", {"0.png": encoded(palette, "png")})
    np.testing.assert_array_equal(
        rows_of(data(tmp_path / "a"))[0], np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    )
    for name, image, options in [
        ("palette", palette, {"transparency": 3}),
        ("rgb", PIL.Image.fromarray(COLOUR), {"transparency": (0, 1, 2)}),
        ("grey", PIL.Image.fromarray(GREY).convert("LA"), {}),
    ]:
        content = encoded(image, "png", **options)
        put(tmp_path / name, {"0.png": content})
        expected = np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGBA")).transpose(2, 0, 1)
        np.testing.assert_array_equal(rows_of(data(tmp_path / name))[0], expected)
    put(tmp_path / "mixed", {"0.png": png(COLOUR), "1.png": encoded(palette, "png", transparency=3)})
    assert "1.png: a row of shape [4, 6, 8] among rows of [3, 6, 8]" in refused(tmp_path / "mixed")


# B5, B10: files that are not read


def test_files_that_are_not_read_are_said(tmp_path, capsys):
    put(
        tmp_path / "a",
        {"0.png": png(GREY), "notes.txt": b"", "part-0001": b"", "labels.csv": b"a\n1\n", "README.md": b""},
    )
    check_data(data(tmp_path / "a"))
    assert "1 files are read, 3 are not: labels.csv, notes.txt, part-0001" in capsys.readouterr().err
    table = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1.0]}), table)
    parquet = table.getvalue().to_pybytes()
    for name in ("1.parquet.gz", "1.parquet.snappy", "1.tar.gz", "1.tgz", "1.heic", "1.jsonl", "1.pkl"):
        put(tmp_path / name, {"0.parquet": parquet, name: b"x"})
        assert f"1 files look like data and cannot be read: {name}" in refused(tmp_path / name, column="x")
        assert check_data(data(tmp_path / name, column="x", on_bad="skip")).rows == 1
        assert name in capsys.readouterr().err
    put(tmp_path / "both", {"0.parquet": parquet, "1.pq": parquet, "2.parq": parquet})
    assert check_data(data(tmp_path / "both", column="x")).rows == 3


def test_an_archive_beside_a_thumbnail_is_no_data_set_of_one_image(tmp_path):
    np.savez(tmp_path / "train.npz", image=np.zeros((1000, 8, 8), np.uint8))
    put(tmp_path, {"thumbnail.png": png(GREY)})
    assert "holds 1 .png and 1 .npz files at once; give one file, or a pattern" in refused(tmp_path)
    assert check_data(data(tmp_path / "*.npz")).rows == 1000


def test_empty_files_and_pointers_are_listed_at_once(tmp_path):
    for suffix in ("parquet", "tar", "npz", "npy", "pt", "safetensors", "csv", "arrow", "h5ad"):
        put(tmp_path / suffix, {f"a.{suffix}": POINTER})
        assert "git lfs pull" in refused(tmp_path / suffix / f"a.{suffix}")
    put(tmp_path / "many", {"a.parquet": POINTER, "b.parquet": b"", "c.parquet": POINTER})
    told = refused(tmp_path / "many")
    assert "2 of 3" in told
    assert "a.parquet" in told and "b.parquet" in told and "c.parquet" in told  # noqa: PT018


# B6, B7, B11: classes (their numbering: test_rules.py)


def test_a_class_is_the_path_of_its_folder(tmp_path):
    names = ["cat/left/1.png", "cat/right/1.png", "dog/left/1.png"]
    put(tmp_path / "leaf", {name: png(GREY) for name in names})
    spec = check_data(data(tmp_path / "leaf", label="label"))
    assert (spec.num_classes, spec.class_names) == (3, ("cat/left", "cat/right", "dog/left"))
    put(tmp_path / "numbers", {f"{c}/0.png": png(np.full((8, 8), c, np.uint8)) for c in range(12)})
    target = read_data(config := data(tmp_path / "numbers", label="label"), check_data(config))
    assert {int(x): int(y) for x, y in zip((target.x[:, 0, 0, 0] + 1) * 127.5 + 0.5, target.labels, strict=True)} == {
        c: c for c in range(12)
    }


def test_labels_of_every_type_in_parquet(tmp_path):
    for name, column, names in [
        ("bool", pa.array([True, False]), ("False", "True")),
        ("text", pa.array(["b", "a"]), ("a", "b")),
        ("category", pa.array(["b", "a"]).dictionary_encode(), ("a", "b")),
        ("large", pa.array(["b", "a"], pa.large_string()), ("a", "b")),
        ("floats", pa.array([1.0, 0.0]), ()),
        ("lists", pa.array([[1], [0]]), ()),
        ("gaps", pa.array([1440764, 7]), ("7", "1440764")),
    ]:
        pq.write_table(pa.table({"x": [[1.0], [0.0]], "y": column}), tmp_path / f"{name}.parquet")
        config = data(tmp_path / f"{name}.parquet", label="y")
        spec = check_data(config)
        target = read_data(config, spec)
        assert (spec.class_names, spec.num_classes, target.num_classes) == (names, 2, 2)
        assert target.labels.tolist() == [1, 0]


def test_a_label_beyond_64_bits_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.zeros((2, 3), np.float32), y=np.array([2**63 + 5, 1], np.uint64))
    assert "label 9223372036854775813 is beyond 64 bits" in refused(tmp_path / "a.npz", label="y")


# B8: splits


def test_splits_are_never_merged(tmp_path):
    for part, rows in (("train-0", 3), ("train-1", 4), ("test-0", 2)):
        pq.write_table(pa.table({"x": [0.0] * rows}), tmp_path / f"{part}.parquet")
    assert "holds the splits test (1 files), train (2 files); choose one with data.split=train" in refused(
        tmp_path, column="x"
    )
    assert check_data(data(tmp_path, column="x", split="train")).rows == 7
    assert check_data(data(tmp_path, column="x", split="testing")).rows == 2
    assert check_data(data(tmp_path / "train-*.parquet", column="x")).rows == 7
    assert "no file is of that split; the names in" in refused(tmp_path, column="x", split="validation")
    assert "no file matches the pattern" in refused(tmp_path / "none-*.parquet", column="x")


def test_splits_of_an_image_folder(tmp_path):
    for split, count in (("train", 3), ("val", 1)):
        put(tmp_path, {f"{split}/{c}/{number}.png": png(GREY) for c in ("ape", "bee") for number in range(count)})
    assert "holds the splits train (6 files), validation (2 files)" in refused(tmp_path, label="label")
    for config in (
        data(tmp_path, label="label", split="train"),
        data(tmp_path / "train" / "*" / "*.png", label="label"),
    ):
        spec = check_data(config)
        assert (spec.rows, spec.class_names) == (6, ("ape", "bee"))
    assert check_data(data(tmp_path / "train", label="label")).class_names == ("ape", "bee")
    put(tmp_path / "vehicles", {f"{kind}/0.png": png(GREY) for kind in ("train", "bus")})
    assert check_data(data(tmp_path / "vehicles", label="label")).class_names == ("bus", "train")


# B9: ranges and ranks


def test_floats_that_are_no_images_on_minus_one_to_one_are_said(tmp_path, capsys):
    pixels = np.random.default_rng(0).random((10, 3, 8, 8)).astype(np.float32)
    for scale, says in ((1, "from 0.0"), (255, "or store uint8"), (None, "")):
        np.save(tmp_path / "a.npy", pixels * 2 - 1 if scale is None else pixels * scale)
        check_data(data(tmp_path / "a.npy"))
        err = capsys.readouterr().err
        assert err.count("\n") == (0 if scale is None else 1)
        assert says in err
    np.save(tmp_path / "a.npy", np.zeros((10, 160, 2), np.float32) - 1)
    check_data(data(tmp_path / "a.npy"))
    assert "rows of shape [160, 2] are read as grey images of 160 x 2; if they are none, store vectors of 320" in (
        capsys.readouterr().err
    )


# B12 and others: rows that cannot be used


def test_rows_that_are_no_numbers_are_counted_and_named(tmp_path):
    x = np.zeros((200, 4, 8, 8), np.float16)
    x[17, 0, 0, 0], x[160, 1] = np.inf, np.nan
    np.savez(tmp_path / "a.npz", image=x)
    assert "2 rows cannot be used: 2: " in refused(tmp_path / "a.npz")
    assert "a.npz row 17, " in refused(tmp_path / "a.npz")
    assert "a.npz row 160: NaN or Inf" in refused(tmp_path / "a.npz")
    config = data(tmp_path / "a.npz", on_bad="skip")
    np.testing.assert_array_equal(rows_of(config), np.delete(x, [17, 160], axis=0))


def test_damaged_images_of_a_table_are_named_by_row(tmp_path):
    good = png(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))
    rows = [good] * 2000
    rows[1500] = rows[1501] = good[:-30]  # the header is whole, the pixels are not
    pq.write_table(pa.table({"image": rows, "y": np.arange(2000)}), tmp_path / "a.parquet", row_group_size=300)
    config = data(tmp_path / "a.parquet", label="y")
    with pytest.raises(
        InputError, match=r"2 rows cannot be used: 2: .*a.parquet row 1500, .*a.parquet row 1501: image cut"
    ):
        read_data(config, check_data(config))
    skipping = config.model_copy(update={"on_bad": "skip"})
    target = read_data(skipping, check_data(skipping))
    assert target.labels.tolist() == [*range(1500), *range(1502, 2000)]


def test_a_refusal_groups_reasons_and_stays_short():
    bad = [Bad(f"{number}.png", 0, "corrupt") for number in range(1000)] + [Bad("a.tar", 7, "NaN or Inf", "key")]
    told = str(refusal(bad, DataConfig(path="d")))
    assert told.startswith(
        "data.path='d': 1,001 rows cannot be used: 1,000: 0.png, 1.png, 2.png, 3.png, 4.png, ...: corrupt"
    )
    assert "a.tar row 7 (key): NaN or Inf" in told
    assert len(told) < 300


def test_large_data_are_checked_by_their_first_rows_and_the_rest_is_found_by_reading(tmp_path, monkeypatch):
    from flowpairs.pipeline.data import check

    monkeypatch.setattr(check, "SMALL", 100)
    x = np.zeros((3000, 40), np.float32)
    x[2900] = np.nan
    np.savez(tmp_path / "a.npz", x=x, y=np.array(["a", "b", "c"])[np.arange(3000) // 1000])
    config = data(tmp_path / "a.npz", label="y")
    spec = check_data(config)
    assert (spec.rows, spec.class_names) == (3000, ("a", "b", "c"))
    with pytest.raises(InputError, match=r"a.npz row 2900: NaN or Inf"):
        read_data(config, spec)
    write_tar(tmp_path / "a.tar", {f"{i}.{f}": b for i in range(5) for f, b in (("png", png(GREY)), ("cls", b"3"))})
    assert check_data(data(tmp_path / "a.tar", label="cls")).rows is None


# Names and links


def test_links_are_followed_and_dangling_ones_refused(tmp_path):
    put(tmp_path / "real", {"0.png": png(GREY)})
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "real")
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set")
    assert check_data(data(tmp_path / "set", label="label")).class_names == ("cat",)
    (tmp_path / "set" / "cat" / "1.png").symlink_to(tmp_path / "nowhere")
    assert "1 entries are dangling links or no files: cat/1.png" in refused(tmp_path / "set")
    assert check_data(data(tmp_path / "set", on_bad="skip")).rows == 1


@pytest.mark.parametrize(("one", "other"), [("train2017", "val2017"), ("training_set", "test_set"), ("Train", "Test")])
def test_splits_by_any_common_name_of_a_directory(one, other, tmp_path):
    put(tmp_path, {f"{one}/cat/0.png": png(GREY), f"{other}/cat/0.png": png(GREY)})
    assert "choose one with data.split=train" in refused(tmp_path)
    assert check_data(data(tmp_path, split="train", label="label")).class_names == ("cat",)


def test_an_archive_of_more_rows_than_can_be_checked_is_bounded(tmp_path, monkeypatch):
    from flowpairs.pipeline.data import check

    monkeypatch.setattr(check, "MOST", 1000)
    x = np.zeros((50_000, 40), np.float32)
    np.savez_compressed(tmp_path / "a.npz", x=x)
    assert check_data(data(tmp_path / "a.npz")).rows == 50_000
