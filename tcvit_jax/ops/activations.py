"""The activations of an MLP: the exact GELU, with a derivative that is computed once, and CLIP's quick one."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32


@jax.custom_vjp
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x * Phi(x)` by the error function (Hendrycks and Gimpel, 2016), not its tanh approximation.

    Computed in float32 and returned in the dtype of `x`. XLA on a CPU would fuse the error function into the matrix
    products around it and evaluate it anew for every tile: barriers keep forward and backward apart from them, which
    makes the backward pass of an MLP several times faster.
    """
    wide = x.astype(jnp.float32)
    return jax.lax.optimization_barrier((wide * _normal_cdf(wide)).astype(x.dtype))


def _normal_cdf(x: Float32[Array, "*shape"]) -> Float32[Array, "*shape"]:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def _forward(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    return gelu(x), x


def _backward(x: Float[Array, "*shape"], gradient: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"]]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide**2) / math.sqrt(2 * math.pi)
    out = gradient.astype(jnp.float32) * (_normal_cdf(wide) + wide * density)
    return (jax.lax.optimization_barrier(out.astype(x.dtype)),)


gelu.defvjp(_forward, _backward)


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x * sigmoid(1.702 x)`, as OpenAI's CLIP was trained (Radford et al., 2021); in the dtype of `x`."""
    wide = x.astype(jnp.float32)
    return jax.lax.optimization_barrier((wide * jax.nn.sigmoid(1.702 * wide)).astype(x.dtype))


# By timm's names.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"gelu": gelu, "quick_gelu": quick_gelu}
