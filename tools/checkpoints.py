"""A checkpoint with the images that it is evaluated on, as the tools beside this module need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax
    import numpy as np

    from tcvit_jax import assembly
    from tcvit_jax.models import ViT
    from tcvit_jax.models.zoo import Preprocessing


@dataclass(frozen=True)
class Evaluated:
    """A trained model and its evaluation split.

    Attributes:
        model: the module of the checkpoint.
        variables: its parameters, and batch statistics where it has any.
        preprocessing: how the model takes its images.
        data: the evaluation split of the checkpoint's own configuration.
    """

    model: ViT
    variables: dict[str, Any]
    preprocessing: Preprocessing
    data: assembly.EvalData

    def pixels(self, indices: Sequence[int]) -> np.ndarray:
        """Return images of the split, resized and cropped, uint8 `[len(indices), height, width, channels]`."""
        import numpy as np

        return np.stack([self.data.transform(self.data.source[index]["image"]) for index in indices])

    def normalize(self, pixels: np.ndarray) -> jax.Array:
        """Return pixels as the model takes them, float32."""
        import jax.numpy as jnp

        from tcvit_jax.ops.images import normalize

        return normalize(jnp.asarray(pixels), self.preprocessing.mean, self.preprocessing.std)


def load(directory: str) -> Evaluated:
    """Load a checkpoint that a training run wrote, with its evaluation split."""
    from tcvit_jax import assembly

    found = assembly.from_checkpoint(directory)
    return Evaluated(found.model, found.variables, found.preprocessing, found.eval_data())
