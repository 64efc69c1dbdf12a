"""Compile every fused kernel for GPUs that are not here, and hold what comes out: `make kernels`.

It fails on a spill, on more shared memory than the chip has, on a missing tensor-core instruction, and on more
instructions an entry than RECORDED. The table goes into docs/gpu.md between its markers.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from flowpairs.pipeline.ot.backends.fused import kernels
from flowpairs.pipeline.ot.backends.fused.fused_logits import SHAPES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "gpu.md"
START, END = "<!-- kernels: written by `make kernels` -->", "<!-- kernels end -->"
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
FEATURES = (64, 512)
HALF, SINGLE, WHOLE, LONG = "*fp16", "*fp32", "*i32", "*i64"
TYPES = dict.fromkeys(("xh", "xl", "yh", "yl"), HALF) | {
    **dict.fromkeys(("gamma", "ref", "weight", "low", "mass", "moment", "top", "rest", "best", "second"), SINGLE),
    **dict.fromkeys(("flags", "where", "rows", "firsts", "stops"), WHOLE),
    **dict.fromkeys(("n", "m", "width", "words"), "i32"),
    "columns": LONG,
    "logits": SINGLE,
    "scale": "fp32",
}
KERNELS = {
    "log-sum": kernels.log_sum_kernel,
    "sweep": kernels.sweep_kernel,
    "argmax": kernels.argmax_kernel,
    "gather": kernels.gather_kernel,
}


@dataclass(frozen=True)
class Chip:
    """A chip's limits and the rates by which the roofline is reckoned: vendors' dense peaks, not measured ones."""

    name: str
    shared: int  # bytes that one program may have
    tensor: float  # float16 operations a second with float32 sums
    issue: float  # instructions a second of all threads: SMs x 128 x clock
    product: str  # the tensor-core instruction


CHIPS = {
    (8, 0): Chip("A100", 163 * 1024, 312e12, 108 * 128 * 1.41e9, "HMMA"),
    (8, 9): Chip("L4", 99 * 1024, 121e12, 58 * 128 * 2.04e9, "HMMA"),
    (9, 0): Chip("H100", 227 * 1024, 989e12, 132 * 128 * 1.755e9, "HGMMA"),
}

# Instructions an entry of the loop over tiles, as they were when this was written; a tenth more fails.
RECORDED = {  # with 64 and with 512 features
    ("log-sum", 80): (13.7, 14.2),
    ("log-sum", 89): (13.6, 14.2),
    ("log-sum", 90): (11.6, 14.1),
    ("sweep", 80): (21.2, 21.4),
    ("sweep", 89): (21.2, 21.4),
    ("sweep", 90): (17.5, 19.2),
    ("argmax", 80): (17.1, 17.3),
    ("argmax", 89): (17.1, 17.3),
    ("argmax", 90): (12.8, 15.3),
    ("gather", 80): (15.3, 16.0),
    ("gather", 89): (16.0, 16.3),
    ("gather", 90): (13.5, 16.0),
}


@dataclass(frozen=True)
class Compiled:
    """What a kernel became."""

    shared: int
    registers: int
    spills: int
    products: int
    instructions: float  # an entry of a thread, in the loop over tiles


def compile_for(kernel: Any, capability: tuple[int, int], features: int) -> Compiled:
    shape = SHAPES[capability]
    step = shape.step(features)
    consts = {"K": features, "BM": shape.rows, "BN": shape.columns, "BK": step, "FLAGS": True}
    names = kernel.arg_names
    consts = {name: value for name, value in consts.items() if name in names}
    signature = {name: "constexpr" if name in consts else TYPES[name] for name in names}
    aligned = {(k,): [["tt.divisibility", 16]] for k, name in enumerate(names) if signature[name].startswith("*")}
    made = triton.compile(
        ASTSource(kernel, signature, {(names.index(name),): value for name, value in consts.items()}, aligned),
        target=GPUTarget("cuda", 10 * capability[0] + capability[1], 32),
        options={"num_warps": shape.warps, "num_stages": shape.stages},
    )
    return inspect(made, shape.rows * shape.columns / (32 * shape.warps))


def inspect(made: Any, entries: float) -> Compiled:
    """Read a binary: `entries` are those of a thread in one round of the loop over tiles."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        code, usage = (
            subprocess.run([TOOLS / "cuobjdump", what, file.name], capture_output=True, text=True, check=True).stdout
            for what in ("--dump-sass", "--dump-resource-usage")
        )
    lines = re.findall(r"/\*([0-9a-f]{4,6})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)(.*?);", code)
    named = [(int(at, 16), name, rest) for at, name, rest in lines]
    spans = []
    for at, name, rest in named:
        target = re.search(r"0x([0-9a-f]+)", rest)
        if name.startswith("BRA") and target and int(target[1], 16) < at:
            spans.append((int(target[1], 16), at))
    # The loop over tiles is the shortest with a multiplication and addition for every entry: its logit.
    loops = [[name for at, name, _ in named if low <= at <= high] for low, high in spans]
    lengths = [len(loop) for loop in loops if sum(name.startswith("FFMA") for name in loop) >= entries]
    counted = Counter(name.split(".")[0] for _, name, _ in named)
    return Compiled(
        made.metadata.shared,
        int(re.findall(r"REG:(\d+)", usage)[-1]),
        counted["LDL"] + counted["STL"],
        counted["HGMMA"] + counted["HMMA"],
        min(lengths, default=len(named)) / entries,
    )


def faults(name: str, capability: tuple[int, int], features: int, made: Compiled) -> list[str]:
    chip, where = CHIPS[capability], f"{name}, {features} features, {CHIPS[capability].name}"
    recorded = RECORDED[name, 10 * capability[0] + capability[1]][FEATURES.index(features)]
    checks = {
        f"{made.spills} instructions that spill": made.spills > 0,
        f"{made.shared} bytes of shared memory, above {chip.shared}": made.shared > chip.shared,
        f"no {chip.product}": made.products == 0,
        f"{made.instructions:.1f} instructions an entry, recorded {recorded}": made.instructions > 1.1 * recorded,
    }
    return [f"{where}: {what}" for what, wrong in checks.items() if wrong]


def table(rows: dict[tuple[str, tuple[int, int], int], Compiled]) -> str:
    lines = [
        "| kernel | chip | features | registers | shared, KB | instructions an entry | products, ps | issue, ps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, capability, features), made in rows.items():
        chip = CHIPS[capability]
        products = 6 * features / chip.tensor * 1e12
        issue = made.instructions / chip.issue * 1e12
        lines.append(
            f"| {name} | {chip.name} | {features} | {made.registers} "
            f"| {made.shared / 1024:.0f} | {made.instructions:.1f} "
            f"| {products:.2f} | {issue:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into docs/gpu.md")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET"):
        sys.exit("TRITON_INTERPRET is set, and an interpreted kernel is not compiled; unset it")
    rows, wrong = {}, []
    for name, kernel in KERNELS.items():
        for capability in SHAPES:
            for features in FEATURES:
                made = compile_for(kernel, capability, features)
                rows[name, capability, features] = made
                wrong += faults(name, capability, features, made)
                print(name, CHIPS[capability].name, features, made, flush=True)
    if options.write:
        page = PAGE.read_text()
        before, rest = page.split(START)
        PAGE.write_text(f"{before}{START}\n\n{table(rows)}\n\n{END}{rest.split(END)[1]}")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
