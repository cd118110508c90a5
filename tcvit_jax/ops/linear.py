"""The product of tokens with a matrix of weights, in the layout that each platform computes and keeps fastest."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from tcvit_jax.ops.platforms import by_platform


def linear(x: Float[Array, "*rows inputs"], kernel: Float[Array, "inputs outputs"]) -> Float[Array, "*rows outputs"]:
    """`x [..., in] @ kernel [in, out]`, in their dtype.

    Elsewhere than on a TPU, batch and tokens are one axis inside: on a CPU XLA's weight gradient over two takes up to
    a third longer. On a TPU a reshape between them is a copy of everything, since the rows of each image fill whole
    tiles: it more than doubled the bytes of a forward pass.
    """
    if x.ndim == 2:
        return x @ kernel
    return by_platform(jnp.matmul, flat, x, kernel)


def flat(x: Float[Array, "*rows inputs"], kernel: Float[Array, "inputs outputs"]) -> Float[Array, "*rows outputs"]:
    """`linear` over one axis of rows."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])
