"""JAX: batches as numpy arrays.

python docs/examples/train_jax.py
"""

import jax
import jax.numpy as jnp

import flowpairs as fp


def loss(weights, t, x0, x1):
    """Flow matching by a velocity of one hidden layer."""
    x_t = x0 + t[:, None] * (x1 - x0)
    hidden = jax.nn.silu(jnp.concatenate([x_t, t[:, None]], 1) @ weights["in"])
    return jnp.mean((hidden @ weights["out"] - (x1 - x0)) ** 2)


step = jax.jit(jax.value_and_grad(loss))
keys = jax.random.split(jax.random.key(0), 3)
weights = {"in": 0.1 * jax.random.normal(keys[0], (65, 256)), "out": 0.1 * jax.random.normal(keys[1], (256, 64))}
loader = fp.PairLoader("out/digits", batch_size=256, fields=["x0", "x1"], drop_last=True)
for epoch in range(5):
    for number, batch in enumerate(loader):
        x0, x1 = (batch[name].flatten(1).numpy() for name in ("x0", "x1"))
        t = jax.random.uniform(jax.random.fold_in(keys[2], epoch * len(loader) + number), (len(x0),))
        value, slope = step(weights, t, x0, x1)
        weights = jax.tree.map(lambda weight, slope: weight - 4 * slope, weights, slope)
    print(f"epoch {epoch}: loss {value:.3f}")
