"""Two forms of one result: the one a TPU moves the fewest bytes for, and the one that is fastest elsewhere."""

from collections.abc import Callable
from typing import Any

import jax


def by_platform(on_tpu: Callable[..., Any], elsewhere: Callable[..., Any], *operands: Any) -> Any:
    """`on_tpu(*operands)` where the program runs on a TPU, `elsewhere(*operands)` on any other platform.

    Which of the two is compiled is known when the program is lowered, and nothing of the other is left in it.
    """
    return jax.lax.platform_dependent(*operands, tpu=on_tpu, default=elsewhere)
