"""MLP activations: the exact GELU, with a custom derivative, and CLIP's quick GELU."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32


@jax.custom_vjp
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the exact GELU, `x * Phi(x)` (Hendrycks and Gimpel, 2016), not its tanh approximation.

    The activation is computed in float32 and returned in the dtype of `x`. On a CPU, XLA would fuse the error function
    into the adjacent matrix products and evaluate it again for every tile. Optimization barriers prevent this fusion,
    which makes the backward pass of an MLP several times faster.
    """
    x32 = x.astype(jnp.float32)
    return jax.lax.optimization_barrier((x32 * _normal_cdf(x32)).astype(x.dtype))


def _normal_cdf(x: Float32[Array, "*shape"]) -> Float32[Array, "*shape"]:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def _forward(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    return gelu(x), x


def _backward(x: Float[Array, "*shape"], gradient: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"]]:
    x32 = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * x32**2) / math.sqrt(2 * math.pi)
    out = gradient.astype(jnp.float32) * (_normal_cdf(x32) + x32 * density)
    return (jax.lax.optimization_barrier(out.astype(x.dtype)),)


gelu.defvjp(_forward, _backward)


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return `x * sigmoid(1.702 x)`, the activation of OpenAI's CLIP (Radford et al., 2021), in the dtype of `x`."""
    x32 = x.astype(jnp.float32)
    return jax.lax.optimization_barrier((x32 * jax.nn.sigmoid(1.702 * x32)).astype(x.dtype))


# Keyed by the names that timm uses.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"gelu": gelu, "quick_gelu": quick_gelu}
