"""Compile every fused kernel for GPUs that are not here, and hold what comes out: `make kernels`.

It fails on a spill, on more shared memory than the chip has, on a missing tensor-core instruction, and on more
instructions an entry than RECORDED. The table goes into docs/gpu.md between its markers.

With `--flash-sinkhorn` it compiles the forward kernels of that library instead, in the same way, and puts them beside:

    pip install --no-deps --target OTHER flash-sinkhorn==0.4.1
    PYTHONPATH=OTHER python benchmarks/kernels.py --flash-sinkhorn --write

That library chooses among its configurations by timing them on the device. Without one, those with its longest blocks
of rows and steps of 32 features are compiled, and the one with the fewest instructions an entry is shown, of those that
do not spill where there are any.
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
START_BESIDE, END_BESIDE = "<!-- beside: written by `kernels.py --flash-sinkhorn --write` -->", "<!-- beside end -->"
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
    ("log-sum", 80): (17.4, 79.3),
    ("log-sum", 89): (17.3, 79.3),
    ("log-sum", 90): (11.5, 31.5),
    ("sweep", 80): (24.8, 79.5),
    ("sweep", 89): (24.8, 79.5),
    ("sweep", 90): (17.5, 36.7),
    ("argmax", 80): (20.8, 75.4),
    ("argmax", 89): (20.8, 75.4),
    ("argmax", 90): (12.7, 32.8),
    ("gather", 80): (18.9, 73.7),
    ("gather", 89): (20.0, 73.9),
    ("gather", 90): (13.5, 33.5),
}


@dataclass(frozen=True)
class Compiled:
    """What a kernel became."""

    shared: int
    registers: int
    spills: int
    products: int
    instructions: float  # that a thread executes for an entry, in the loop over tiles


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
    return inspect(made, shape.rows * shape.columns / (32 * shape.warps), -(-features // step))


def inspect(made: Any, entries: float, steps: int, mark: str = "FFMA") -> Compiled:
    """Read a binary.

    Args:
        made: what Triton compiled.
        entries: entries of a thread in one round of the loop over tiles.
        steps: rounds of the loop over features inside it, where there is one.
        mark: an instruction that the loop over tiles has for every entry.
    """
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

    def inside(span: tuple[int, int]) -> list[str]:
        return [name for at, name, _ in named if span[0] <= at <= span[1]]

    marked = [span for span in spans if sum(name.startswith(mark) for name in inside(span)) >= entries]
    tiles = min(marked, key=lambda span: len(inside(span)), default=(0, named[-1][0]))
    inner = [len(inside(span)) for span in spans if span != tiles and tiles[0] <= span[0] and span[1] <= tiles[1]]
    executed = len(inside(tiles)) + (steps - 1) * min(inner, default=0)
    counted = Counter(name.split(".")[0] for _, name, _ in named)
    return Compiled(
        made.metadata.shared,
        int(re.findall(r"REG:(\d+)", usage)[-1]),
        counted["LDL"] + counted["STL"],
        counted["HGMMA"] + counted["HMMA"],
        executed / entries,
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


def flash_sinkhorns() -> dict[tuple[str, str], Any]:
    """Return that library's kernels by name and precision, with the configurations that it tries on a device."""
    from flash_sinkhorn.kernels import sinkhorn_flashstyle_sqeuclid as theirs

    half, step = theirs._flashsinkhorn_lse_fused_kernel_autotune, theirs._flashsinkhorn_symmetric_step_kernel_autotune
    return {("half-step", "TF32"): half, ("half-step", "float32"): half, ("both half-steps", "TF32"): step}


def compile_theirs(kernel: Any, precision: str, config: Any, capability: tuple[int, int], features: int) -> Compiled:
    """Compile a kernel for contiguous points whose numbers are multiples of its blocks."""
    names, blocks = kernel.arg_names, config.kwargs
    consts = blocks | {"D": features, "ALLOW_TF32": precision == "TF32", "DTYPE_ID": 2, "USE_EXP2": True}
    consts |= {"EVEN_N": True, "EVEN_M": True, "USE_LABEL_COST": False, "stride_x1": 1, "stride_y1": 1, "stride_out": 1}
    consts = {name: value for name, value in consts.items() if name in names}
    whole = {"n", "m", "V", "CACHE_KEY_N", "CACHE_KEY_M", "stride_x0", "stride_y0"}
    types = {name: SINGLE if name.endswith("_ptr") else "i32" if name in whole else "fp32" for name in names}
    types |= dict.fromkeys(("label_x_ptr", "label_y_ptr"), WHOLE) | dict.fromkeys(consts, "constexpr")
    made_of = {name: types[name] for name in names}
    even = [k for k, name in enumerate(names) if types[name].startswith("*") or name in whole - {"V"}]
    made = triton.compile(
        ASTSource(
            kernel,
            made_of,
            {(names.index(name),): value for name, value in consts.items()},
            {(k,): [["tt.divisibility", 16]] for k in even},
        ),
        target=GPUTarget("cuda", 10 * capability[0] + capability[1], 32),
        options={"num_warps": config.num_warps, "num_stages": config.num_stages},
    )
    entries = blocks["BLOCK_M"] * blocks["BLOCK_N"] / (32 * config.num_warps)
    return inspect(made, entries, features // blocks["BLOCK_K"], "MUFU")


def beside() -> str:
    """Compile both libraries' kernels, and return the table."""
    lines = [
        "| kernel | chip | features | products | block, warps | registers | spills | shared, KB | tensor-core "
        "instructions | instructions an entry |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]

    def line(what: str, chip: Chip, features: int, products: str, block: str, made: Compiled) -> None:
        lines.append(
            f"| {what} | {chip.name} | {features} | {products} | {block} | {made.registers} | {made.spills} "
            f"| {made.shared / 1024:.0f} | {made.products} | {made.instructions:.1f} |"
        )
        print(lines[-1], flush=True)

    for capability, shape in SHAPES.items():
        chip = CHIPS[capability]
        for features in FEATURES:
            for name in ("log-sum", "sweep"):
                block = f"{shape.rows} x {shape.columns} x {shape.step(features)}, {shape.warps}"
                made = compile_for(KERNELS[name], capability, features)
                line(f"ours: {name}", chip, features, "3 of float16", block, made)
            for (name, precision), kernel in flash_sinkhorns().items():
                tried = [
                    (config, compile_theirs(kernel.fn.fn, precision, config, capability, features))
                    for config in kernel.configs
                    if (config.kwargs["BLOCK_M"], config.kwargs["BLOCK_K"]) == (128, 32)
                ]
                config, made = min(tried, key=lambda each: (each[1].spills > 0, each[1].instructions))
                blocks = " x ".join(str(config.kwargs[f"BLOCK_{side}"]) for side in "MNK")
                line(f"theirs: {name}", chip, features, f"1 of {precision}", f"{blocks}, {config.num_warps}", made)
    return "\n".join(lines)


def write(start: str, end: str, what: str) -> None:
    """Put a table between its markers."""
    page = PAGE.read_text()
    before, rest = page.split(start)
    PAGE.write_text(f"{before}{start}\n\n{what}\n\n{end}{rest.split(end)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into docs/gpu.md")
    parser.add_argument("--flash-sinkhorn", action="store_true", help="compile that library's kernels, beside ours")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET"):
        sys.exit("TRITON_INTERPRET is set, and an interpreted kernel is not compiled; unset it")
    if options.flash_sinkhorn:
        found = beside()
        if options.write:
            write(START_BESIDE, END_BESIDE, found)
        return
    rows, wrong = {}, []
    for name, kernel in KERNELS.items():
        for capability in SHAPES:
            for features in FEATURES:
                made = compile_for(kernel, capability, features)
                rows[name, capability, features] = made
                wrong += faults(name, capability, features, made)
                print(name, CHIPS[capability].name, features, made, flush=True)
    if options.write:
        write(START, END, table(rows))
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
