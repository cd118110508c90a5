"""Load a checkpoint and its evaluation images, for the other programs in `tools/`."""

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
class EvaluationModel:
    """A trained model and its evaluation split.

    Attributes:
        model: The module of the checkpoint.
        variables: The parameters, and batch statistics if the model has any.
        preprocessing: The normalization and crop that the model expects.
        data: The evaluation split of the checkpoint's configuration.
    """

    model: ViT
    variables: dict[str, Any]
    preprocessing: Preprocessing
    data: assembly.EvalData

    def pixels(self, indices: Sequence[int]) -> np.ndarray:
        """Return images of the split, resized and cropped, uint8 `[len(indices), H, W, C]`."""
        import numpy as np

        return np.stack([self.data.transform(self.data.source[index]["image"]) for index in indices])

    def normalize(self, pixels: np.ndarray) -> jax.Array:
        """Return the normalized input of the model, float32 of the same shape as `pixels`."""
        from tcvit_jax.ops.images import normalize

        return normalize(pixels, self.preprocessing.mean, self.preprocessing.std)


def load(directory: str) -> EvaluationModel:
    """Load the checkpoint of a training run, with its evaluation split."""
    from tcvit_jax import assembly

    checkpoint = assembly.from_checkpoint(directory)
    return EvaluationModel(checkpoint.model, checkpoint.variables, checkpoint.preprocessing, checkpoint.eval_data())
