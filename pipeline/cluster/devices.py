"""The device of an actor: the GPU that Ray gave it, else the CPU, whatever GPUs its node has.

Ray leaves CUDA_VISIBLE_DEVICES as it is for an actor that asked for no GPU, so that torch sees GPUs that are others'.
"""

from collections.abc import Sequence

import ray

from flowpairs.pipeline.base.errors import InputError


def assigned_device() -> str:
    """Return "cuda" where Ray gave this actor a GPU, else "cpu".

    Raises:
        InputError: torch cannot use the GPU that this actor was given.
    """
    import torch

    given = ray.get_gpu_ids()
    if not given:
        return "cpu"
    if not torch.cuda.is_available():
        raise InputError(
            f"cluster.gpus_per_actor: Ray gave an actor GPU {', '.join(map(str, given))} of node "
            f"{ray.util.get_node_ip_address()}, where torch {torch.__version__} finds no CUDA device; install a CUDA "
            "build of torch and NVIDIA's driver there, or give 0"
        )
    return "cuda"


def check_alike(names: Sequence[str]) -> None:
    """Refuse a team of unlike devices: the same sums may differ in their last bits, and members would part.

    Args:
        names: of the members' devices.

    Raises:
        InputError: they are not all the same.
    """
    if len(set(names)) > 1:
        raise InputError(
            f"cluster.actors_per_block={len(names)}: a team on {' and '.join(sorted(set(names)))}, whose results may "
            "differ in their last bits; give it nodes with GPUs of one kind, or give 1"
        )
