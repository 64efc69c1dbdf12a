"""Your own data: as arrays, as encoded images in parquet, or as a folder of images by class.

    python docs/tutorials/your_data.py [--output out/tutorials/your_data]

You learn how to write each of the three, how to have a config checked before anything runs, what a job will take, and
how to look at the pairs that came out. Takes about half a minute on two cores, most of it Ray's start.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from matplotlib import pyplot as plt
from PIL import Image
from sklearn.datasets import load_digits

from flowpairs import PairDataset
from flowpairs.jobs.plan import print_plan
from flowpairs.pipeline import data
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.plan import plan


def main(output: Path) -> None:
    # 1. Arrays: images as uint8 [n, H, W] or [n, H, W, C], which become floats in [-1, 1]; vectors as floats [n, d],
    #    which are left as they are. Labels are class ids 0, 1, 2, ... and may be left out.
    images, labels = np.uint8(load_digits().images * (255 / 16)), load_digits().target
    np.savez(output / "digits.npz", image=images, label=labels)

    # 2. Parquet: a column of bytes, each an encoded image, as data sets on the Hugging Face Hub have them.
    encoded = [png(image) for image in images]
    pq.write_table(pa.table({"image": encoded, "label": labels}), output / "digits.parquet")

    # 3. A folder: the name of the folder that an image lies in is its class.
    for number, (file, label) in enumerate(zip(encoded, labels, strict=True)):
        folder = output / "digits" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:04d}.png").write_bytes(file)

    # 4. Have them checked, which takes no Ray: every row of a local data set is looked at, and of a remote one the
    #    first. Each is one `data:` section of a config; the formats are told apart by the names of the files.
    print("data.path         format reads as    shape       rows   classes")
    for name in ("digits.npz", "digits.parquet", "digits"):
        spec = data.check_data(config(output, data={"path": str(output / name), "label": "label"}).data)
        print(f"{name:18}{spec.kind:19}{spec.shape!s:10}{spec.rows:7,}{spec.num_classes:8}")

    # 5. What is wrong is told in one sentence, before anything is paid for.
    try:
        data.check_data(config(output, data={"path": str(output / "digits.parquet"), "column": "img"}).data)
    except InputError as error:
        print(f"\nerror: {error}")

    # 6. What the job will take, and the job. On the command line these are `flowpairs plan CONFIG`, `flowpairs couple
    #    CONFIG`.
    job = config(output, data={"path": str(output / "digits.parquet"), "label": "label"})
    print_plan(plan(job), as_json=False)
    index = couple(job)
    print(f"{index.pairs:,} pairs in {output / 'pairs'}")

    # 7. Look at the pairs, before you train on them: above the noise, below the datum that it is to become. Under the
    #    right coupling the noise looks a little like it already; were the images transposed, or negatives, here one
    #    would see it.
    batch = PairDataset(output / "pairs")[:256]
    x0, x1 = batch["x0"], batch["x1"]
    shown = [int(torch.nonzero(batch["label"] == label)[0]) for label in range(10)]  # one of each class
    likeness = torch.cosine_similarity(x0.flatten(1), x1.flatten(1)).mean()
    print(f"cosine of noise and datum, mean over {len(x0)} pairs: {likeness:.2f}; independent pairs have 0")
    figure, axes = plt.subplots(2, 10, figsize=(5.6, 1.6), layout="constrained")
    for title, side, line, reach in (("noise", x0, axes[0], 2.5), ("datum", x1, axes[1], 1.0)):
        line[0].set_ylabel(title, rotation=0, ha="right", va="center")
        for ax, row in zip(line, shown, strict=True):
            ax.imshow(side[row, 0], cmap="gray", vmin=-reach, vmax=reach)
            ax.set(xticks=[], yticks=[])
    for label, ax in enumerate(axes[1]):
        ax.set_xlabel(label)
    figure.supxlabel("label", fontsize=10)
    figure.savefig(output / "your_data.png", dpi=150)


def config(output: Path, **sections: dict) -> CoupleConfig:
    """The job of these data; a YAML file of the same keys is what the command line takes."""
    plain = {
        "coupling": {"method": "sinkhorn", "n": 1797, "sharpness": 0.1},
        "output": {"dir": str(output / "pairs"), "pairs": 8192},
    }
    return validate(CoupleConfig, plain | sections)


def png(image: np.ndarray) -> bytes:
    """An encoded image."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/tutorials/your_data"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    main(options.output)
