"""The same images written in every format, by numpy, PIL, pyarrow, webdataset and tarfile."""

import io
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset

from flowpairs.pipeline.config import DataConfig

ROADS = ["npz", "folder", "tars", "tars of npy", "parquet", "parquet of binary"]


def write(road: str, root: Path, images: np.ndarray, labels: np.ndarray) -> DataConfig:
    """Images [n, h, w, c] and labels in one of `ROADS`, and the configuration that reads them."""
    root.mkdir(parents=True, exist_ok=True)
    half = len(images) // 2
    parts = [(1, images[half:], labels[half:]), (0, images[:half], labels[:half])]  # the later file is the older one
    if road == "npz":
        np.savez(root / "all.npz", images=images, labels=labels)
        return DataConfig(path=str(root / "all.npz"), column="images", label="labels")
    if road == "folder":
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = root / f"class{label}" / f"{row:05d}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png(image))
        return DataConfig(path=str(root), label="label")
    if road.startswith("tars"):
        field, encode = ("npy", npy) if road == "tars of npy" else ("png", png)
        for part, some, ids in parts:
            with webdataset.TarWriter(str(root / f"part-{part}.tar"), encoder=False) as tar:
                for row, (image, label) in enumerate(zip(some, ids, strict=True)):
                    sample = {"__key__": f"{part}-{row:05d}", field: encode(image), "cls": str(label).encode()}
                    tar.write(sample | {"notes.txt": b"never read", "extra.pyd": b"never read"})
        return DataConfig(path=str(root), column=field, label="cls")
    for part, some, ids in parts:
        encoded = [png(image) for image in some]
        if road == "parquet":
            column = pa.array([{"bytes": data, "path": None} for data in encoded])
        else:
            column = pa.array(encoded)
        table = pa.table({"label": ids, "img": column, "split": ["train"] * len(ids)})
        pq.write_table(table, root / f"part-{part}.parquet", row_group_size=50)
    return DataConfig(path=str(root), column="img", label="label")


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(image).save(out, "png")
    return out.getvalue()


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
