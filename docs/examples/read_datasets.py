"""Hugging Face datasets: the shards are WebDataset tars, of records of several pairs each.

python docs/examples/read_datasets.py
"""

import datasets
import numpy as np

records = datasets.load_dataset("webdataset", data_files="out/digits/shards/*.tar", split="train", streaming=True)
pairs = 0
for record in records:
    x0, x1 = np.asarray(record["x0.npy"]), np.asarray(record["x1.npy"])
    pairs += len(x0)
    ids = record["meta.json"]["data_ids"]
print(f"{pairs} pairs of shape {x0.shape[1:]}; the last one has datum {ids[-1]}, {abs(x1 - x0).mean():.2f} away")
