"""Selection between a TPU implementation and one for all other platforms."""

from collections.abc import Callable
from typing import Any

import jax


def by_platform(on_tpu: Callable[..., Any], elsewhere: Callable[..., Any], *operands: Any) -> Any:
    """Return `on_tpu(*operands)` on a TPU and `elsewhere(*operands)` on any other platform.

    The function is chosen when the program is lowered, and the other one is not compiled.

    Args:
        on_tpu: The implementation for TPUs, usually the one that moves the fewest bytes.
        elsewhere: The implementation for all other platforms, with the same result.
        *operands: Pytrees of arrays.

    Returns:
        The result of the chosen function.
    """
    return jax.lax.platform_dependent(*operands, tpu=on_tpu, default=elsewhere)
