"""Ray Data: records of several pairs, laid out pair by pair.

python docs/examples/read_ray_data.py
"""

import ray

records = ray.data.read_webdataset("out/digits/shards", file_extensions=["tar"])
pairs = records.flat_map(
    lambda record: [{"x0": x0, "x1": x1} for x0, x1 in zip(record["x0.npy"], record["x1.npy"], strict=True)]
)
count = 0
for batch in pairs.iter_torch_batches(batch_size=256, local_shuffle_buffer_size=1024):
    count += len(batch["x0"])
print(f"{count} pairs of shape {tuple(batch['x0'].shape[1:])}")
