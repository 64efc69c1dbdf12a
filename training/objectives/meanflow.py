"""MeanFlow: the average velocity of a flow over an interval, for sampling in one to four steps (arXiv 2505.13447).

The definition (e - t) u(x_t, t, e) = int_t^e v(s, x_s) ds, differentiated by t along the trajectory, gives the identity

    u(x_t, t, e) = v(t, x_t) + (e - t) d/dt u(x_t, t, e)

Time runs from source to target here, and the state is at the interval's beginning; the paper's time runs from data to
noise, and its state is at the end.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def average_velocity(
    model: nn.Module,
    t: Float[Tensor, " b"],
    until: Float[Tensor, " b"],
    x: Float[Tensor, "b *shape"],
    v: Float[Tensor, "b *shape"],
    label: Int64[Tensor, " b"] | None,
    rows: Int64[Tensor, " k"],
) -> Float[Tensor, "b *shape"]:
    """Compute the right side of the identity, by a Jacobian-vector product with tangents (1, v) for (t, x).

    No gradient flows through the result.

    Args:
        model: u, not wrapped for data parallelism. It must treat samples independently of each other, since those with
            an empty interval skip the product.
        t: the start of each interval.
        until: the end of each interval.
        x: the points at t.
        v: the velocities of the pairs there.
        label: the label of each sample; None for an unconditional model.
        rows: the numbers of the samples whose interval has positive length.
    """
    target = v.clone()
    if not len(rows):
        return target
    end, labels = until[rows], None if label is None else label[rows]

    def average(t: Tensor, x: Tensor) -> Tensor:
        return model(t, x, labels, end).float()

    # Fused attention does not support forward-mode differentiation.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        start = (t[rows], x[rows])
        rate = torch.func.jvp(average, start, (torch.ones_like(start[0]), v[rows]))[1]
    length = (end - start[0]).view(-1, *(1,) * (x.ndim - 1))
    target[rows] += length * rate
    return target
