"""A decoder for `--task dense`: from patch features to a saliency map of eight times their size.

python eval.py --task dense --decoder examples.saliency_decoder:SaliencyDecoder --decoder-weights FILE ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax import Array

WIDTHS = (256, 128, 64)


class SaliencyDecoder(nn.Module):
    """Three times a transposed convolution of 4x4 with stride 2, batch norm and ReLU; a 1x1 convolution and a sigmoid.

    Attributes:
        widths: Number of channels after each transposed convolution.
    """

    widths: tuple[int, ...] = WIDTHS

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Map patch features `[B, h, w, D]` to probabilities `[B, 8 * h, 8 * w, 1]`."""
        x = features
        for index, width in enumerate(self.widths, 1):
            x = nn.ConvTranspose(width, (4, 4), (2, 2), padding="SAME", name=f"upconv{index}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-5, name=f"bn{index}")(x))
        return jax.nn.sigmoid(nn.Conv(1, (1, 1), name="final_conv")(x))

    @staticmethod
    def convert(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Convert the tensors of torch, with names such as `decoder.upconv1.weight`, to variables.

        Raises:
            KeyError: A tensor is missing.
        """
        tensors = {name.removeprefix("decoder."): tensor for name, tensor in tensors.items()}
        params: dict[str, Any] = {}
        statistics: dict[str, Any] = {}
        for index in range(1, len(WIDTHS) + 1):
            up, norm = f"upconv{index}", f"bn{index}"
            # torch stores [in, out, rows, columns] and correlates with the mirrored kernel.
            kernel = np.flip(tensors[f"{up}.weight"], (2, 3)).transpose(2, 3, 0, 1)
            params[up] = {"kernel": kernel, "bias": tensors[f"{up}.bias"]}
            params[norm] = {"scale": tensors[f"{norm}.weight"], "bias": tensors[f"{norm}.bias"]}
            statistics[norm] = {"mean": tensors[f"{norm}.running_mean"], "var": tensors[f"{norm}.running_var"]}
        kernel = tensors["final_conv.weight"].transpose(2, 3, 1, 0)
        params["final_conv"] = {"kernel": kernel, "bias": tensors["final_conv.bias"]}
        return {"params": params, "batch_stats": statistics}
