"""Writes the conformance stores beside this file, from docs/pair-format.md alone: the standard library and numpy.

    python tests/conformance/generate.py [DIRECTORY]

The same ten pairs in each payload: five data of shape [1, 3, 4] with labels, mirror images as ids 5 to 9, noise of seed
2^62 + 1. Shard 0 has two records, shard 2 noise rows that do not follow each other.

And the same data ids with data as their source: `two-sided` (ids of another set, of three images) and `chain` (full;
the source is the same set, and block 0 leads from time 0 to 1, block 1 from 1 to 3). Rows are in parts of three;
`seeded` and `chain` have none, as they may.
"""

import hashlib
import io
import json
import struct
import sys
from pathlib import Path

import numpy as np

SEED = 2**62 + 1
DATA = (np.arange(60, dtype=np.float32).reshape(5, 1, 3, 4) * 7 % 32) / 16 - 1
LABELS = np.array([2, 0, 1, 1, 0])
# shard -> (block, [(row of the block, data ids, noise rows)])
SHARDS = [
    (0, [(0, [3, 9, 0], [0, 1, 2]), (3, [5], [3])]),
    (0, [(4, [3, 8], [4, 5])]),
    (1, [(0, [1, 2, 7, 7], [9, 2**39, 2**39 + 1, 6])]),
]
IMAGES = (np.arange(36).reshape(3, 1, 3, 4) * 29 % 256).astype(np.uint8)
SOURCE = IMAGES / np.float32(127.5) - np.float32(1)
TIMES, SPANS = [0.0, 1.0, 3.0], {0: [0.0, 1 / 3], 1: [1 / 3, 1.0]}
STORES = {"full": "full", "seeded": "seeded", "ids": "ids", "two-sided": "ids", "chain": "full"}  # name -> payload
MASK = 2**64 - 1


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 by its definition (Salmon et al., SC 2011)."""
    c, k = list(counter), list(key)
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(high >> 64) ^ c[1] ^ k[0], high & MASK, (low >> 64) ^ c[3] ^ k[1], low & MASK]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return c


def horner(z: np.float32, coefficients: list[float]) -> np.float32:
    out = np.float32(coefficients[-1])
    for c in coefficients[-2::-1]:
        out = np.float32(np.float32(out * z) + np.float32(c))
    return out


def gaussians(radial: int, angular: int) -> tuple[np.float32, np.float32]:
    """Two float32 Gaussians out of two 32-bit words; every operation rounded to float32 by itself."""
    f = np.float32
    u = (f(radial) + f(0.5)) * f(2.0**-32)
    bits = struct.unpack("<i", struct.pack("<f", u))[0] - 0x3F3504F3
    m = f(struct.unpack("<f", struct.pack("<i", (bits & 0x7FFFFF) + 0x3F3504F3))[0])
    s = (m - f(1)) / (m + f(1))
    series = horner(s * s, [1.0, 1 / 3, 1 / 5, 1 / 7, 1 / 9]) * s * f(-4)
    radius = np.sqrt(f(bits >> 23) * f(-2 * 0.6931471805599453) + series)
    if angular & 0x80000000:
        radius = -radius
    k = (angular << 2) & 0xFFFFFFFF
    y = f(k - 2**32 if k & 0x80000000 else k) * f(np.pi / 4 * 2.0**-31)
    z = y * y
    cosine = horner(z, [1.0, -1 / 2, 1 / 24, -1 / 720, 1 / 40320])
    sine = horner(z, [1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880]) * y
    if angular & 0x40000000:
        cosine, sine = sine, cosine
    return cosine * radius, sine * radius


def noise(row: int, dim: int) -> np.ndarray:
    """Source row `row` of the seed's Gaussian noise."""
    width = -(-dim // 8)
    words: list[int] = []
    for counter in range(row * width + 1, row * width + 1 + width):
        for word in philox([counter, 0, 0, 0], [SEED, 0]):
            words += [word & 0xFFFFFFFF, word >> 32]
    half = 4 * width
    pairs = [gaussians(words[i], words[half + i]) for i in range(half)]
    return np.array([a for a, _ in pairs] + [b for _, b in pairs], np.float32)[:dim]


def member(name: str, content: bytes) -> bytes:
    """A tar header, the content and its padding."""
    fields = struct.pack(
        "<100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x",
        *(name.encode(), b"0000444", b"0000000", b"0000000", b"%011o" % len(content), b"00000000000"),
        *(b"        ", b"0", b"", b"ustar\x0000", b"flowpairs", b"flowpairs", b"", b"", b""),
    )
    header = fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]
    return header + content + bytes(-len(content) % 512)


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def of(data: np.ndarray, ids: list[int]) -> np.ndarray:
    """Data by id, mirror images behind them."""
    return np.stack([data[i] if i < len(data) else data[i - len(data)][..., ::-1] for i in ids])


def sources(name: str, rows: list[int]) -> list[int] | None:
    """Source ids in the place of noise rows, of a source that is data."""
    return {"two-sided": [row % 6 for row in rows], "chain": [row % 10 for row in rows]}.get(name)


def record(name: str, block: int, first: int, ids: list[int], rows: list[int]) -> bytes:
    payload, source_ids = STORES[name], sources(name, rows)
    meta = {"block": block, "seed": SEED, "first_noise_counter": rows[0]}
    if source_ids is not None:
        meta |= {"seed": None, "first_noise_counter": None}
    if name == "chain":
        meta["span"] = SPANS[block]
    fields = {"meta.json": meta}
    if payload == "ids":
        fields["id.npy"] = npy(np.array(ids, "<u4"))
        if source_ids is not None:
            fields["source_id.npy"] = npy(np.array(source_ids, "<u4"))
    else:
        meta |= {"data_ids": ids} | ({} if source_ids is None else {"source_ids": source_ids})
        fields["x1.npy"] = npy(of(DATA, ids))
        fields["label.npy"] = npy(LABELS[np.array(ids) % 5])
    if payload == "full":
        x0 = [noise(row, 12).reshape(1, 3, 4) for row in rows]
        fields["x0.npy"] = npy(np.stack(x0) if source_ids is None else of(DATA, source_ids))
    if source_ids is None and rows != list(range(rows[0], rows[0] + len(rows))):
        fields["row.npy"] = npy(np.array(rows, "<u8"))
    fields["meta.json"] = json.dumps(meta, sort_keys=True, separators=(",", ":")).encode()
    return b"".join(member(f"b{block:06d}-r{first:09d}.{name}", fields[name]) for name in sorted(fields))


def row_set(directory: Path | None, x: np.ndarray, labels: np.ndarray | None) -> str:
    """Write rows in parts of three, unless the directory is None, and return their fingerprint."""
    files = {f"part-{start // 3:05d}.npy": x[start : start + 3] for start in range(0, len(x), 3)}
    columns = {} if labels is None else {"label.npy": labels}
    listed = [
        {
            "name": name,
            "rows": len(values),
            "bytes": len(npy(values)),
            "sha256": hashlib.sha256(npy(values)).hexdigest(),
        }
        for name, values in (files | columns).items()
    ]
    parts, others = listed[: len(files)], listed[len(files) :]
    tree = {"shape": list(x.shape[1:]), "dtype": str(x.dtype)}
    hashes = {"parts": [part["sha256"] for part in parts], "label": [part["sha256"] for part in others]}
    fingerprint = hashlib.sha256(json.dumps(tree | hashes, sort_keys=True).encode()).hexdigest()
    if directory is not None:
        directory.mkdir(exist_ok=True)
        for name, values in (files | columns).items():
            (directory / name).write_bytes(npy(values))
        manifest = tree | {
            "format_version": 2,
            "rows": len(x),
            "scale": "x / 127.5 - 1" if x.dtype == np.uint8 else "x",
            "kind": "image",
            "num_classes": 0 if labels is None else 3,
            "class_names": [],
            "left_out": 0,
            "parts": parts,
            "columns": others,
            "fingerprint": fingerprint,
        }
        (directory / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return fingerprint


def write(directory: Path, name: str) -> None:
    payload, store = STORES[name], name
    (directory / "shards").mkdir(parents=True, exist_ok=True)
    shards = []
    for number, (block, records) in enumerate(SHARDS):
        tar = b"".join(record(store, block, *parts) for parts in records)
        tar += bytes(1024)
        tar += bytes(-len(tar) % 10240)
        ids = [i for _, ids, _ in records for i in ids]
        name = f"pairs-{number:06d}"
        shard = {"name": f"{name}.tar", "block": block, "pairs": len(ids), "records": len(records)}
        shard |= {"bytes": len(tar), "sha256": hashlib.sha256(tar).hexdigest()}
        sidecar = {
            "shard": shard,
            "first_noise_counter": records[0][2][0] if sources(store, []) is None else None,
            "data_ids": [min(ids), max(ids)],
            "report": {"block": block, "method": "imported"},
        }
        (directory / "shards" / f"{name}.tar").write_bytes(tar)
        (directory / "shards" / f"{name}.json").write_text(json.dumps(sidecar, indent=1, sort_keys=True) + "\n")
        shards.append(shard)
    fingerprint = row_set(None if store in ("seeded", "chain") else directory / "rows", DATA, LABELS)
    index = {
        "format_version": 2,
        "config_hash": "0" * 16,
        "data_fingerprint": fingerprint,
        "pairs": sum(shard["pairs"] for shard in shards),
        "shape": [1, 3, 4],
        "num_classes": 3,
        "class_names": [],
        "payload": payload,
        "method": "imported",
        "convention": "pairs of a conformance test, made by hand",
        "weighted": False,
        "source_fingerprint": None,
        "times": [],
        "shards": shards,
    }
    if store == "two-sided":
        index["source_fingerprint"] = row_set(directory / "source_rows", IMAGES, None)
    if store == "chain":
        index |= {"source_fingerprint": index["data_fingerprint"], "times": TIMES}
    (directory / "index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    for store in STORES:
        write(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent) / store, store)
