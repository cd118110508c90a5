"""MLP activations: the exact GELU, with a custom derivative, and those of CLIP, SigLIP and gated MLPs."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32


@jax.custom_jvp
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the exact GELU, `x * Phi(x)` (Hendrycks and Gimpel, 2016), not its tanh approximation.

    The activation is computed in float32 and returned in the dtype of `x`. On a CPU, XLA would fuse the error function
    into the adjacent matrix products and evaluate it again for every tile. Optimization barriers prevent this fusion,
    which makes the backward pass of an MLP several times faster. Forward- and reverse-mode derivatives of any order
    are defined.
    """
    x32 = x.astype(jnp.float32)
    return jax.lax.optimization_barrier((x32 * _normal_cdf(x32)).astype(x.dtype))


def _normal_cdf(x: Float32[Array, "*shape"]) -> Float32[Array, "*shape"]:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


@gelu.defjvp
def _gelu_jvp(
    primals: tuple[Float[Array, "*shape"]], tangents: tuple[Float[Array, "*shape"]]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    (x,), (tangent,) = primals, tangents
    return gelu(x), _scale_by_slope(x, tangent)


# Rematerialized, so that the backward pass keeps `x` in its own dtype instead of the slope in float32.
@partial(jax.checkpoint, prevent_cse=False)
def _scale_by_slope(x: Float[Array, "*shape"], tangent: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the derivative of `gelu` at `x` times `tangent`, in the dtype of `x`."""
    x32 = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * x32**2) / math.sqrt(2 * math.pi)
    # In reverse mode this is the barrier behind the gradient of `x`.
    tangent32 = jax.lax.optimization_barrier(tangent).astype(jnp.float32)
    return (tangent32 * (_normal_cdf(x32) + x32 * density)).astype(x.dtype)


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return `x * sigmoid(1.702 x)`, the activation of OpenAI's CLIP (Radford et al., 2021), in the dtype of `x`."""
    x32 = x.astype(jnp.float32)
    return jax.lax.optimization_barrier((x32 * jax.nn.sigmoid(1.702 * x32)).astype(x.dtype))


def gelu_tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the tanh approximation of the GELU (Hendrycks and Gimpel, 2016), in the dtype of `x`."""
    x32 = x.astype(jnp.float32)
    slope = 0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x32 + 0.044715 * x32**3)))
    return jax.lax.optimization_barrier((x32 * slope).astype(x.dtype))


def silu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return `x * sigmoid(x)` (Elfwing et al., 2018), in the dtype of `x`."""
    x32 = x.astype(jnp.float32)
    return jax.lax.optimization_barrier((x32 * jax.nn.sigmoid(x32)).astype(x.dtype))


# Keyed by the names that timm uses.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu, "gelu_tanh": gelu_tanh, "quick_gelu": quick_gelu, "relu": jax.nn.relu, "silu": silu,
}  # fmt: skip
