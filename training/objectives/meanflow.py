"""MeanFlow: the average velocity of a flow over an interval, to sample in one to four steps (arXiv 2505.13447).

With (e - t) u(x_t, t, e) = int_t^e v(s, x_s) ds, differentiated along the trajectory by t:

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
) -> Float[Tensor, "b *shape"]:
    """The identity's right side, by a Jacobian-vector product with tangents (1, v) for (t, x); no gradient.

    Args:
        model: u, not wrapped for data parallelism. Samples must not see each other, for those whose interval is empty
            are spared the product.
        t, until: the intervals.
        x: points at t.
        v: velocities there, the pairs' own.
        label: of each sample.
    """
    rows = (until > t).nonzero().squeeze(1)
    target = v.clone()
    if not len(rows):
        return target
    end, labels = until[rows], None if label is None else label[rows]

    def average(t: Tensor, x: Tensor) -> Tensor:
        return model(t, x, labels, end).float()

    # Fused attention knows no forward mode.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        start = (t[rows], x[rows])
        rate = torch.func.jvp(average, start, (torch.ones_like(start[0]), v[rows]))[1]
    length = (end - start[0]).view(-1, *(1,) * (x.ndim - 1))
    target[rows] += length * rate
    return target
