"""Position embeddings of a file for the prefix tokens and the patch grid of a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tcvit_jax.convert.problems import InvalidTensorError
from tcvit_jax.models import ViT
from tcvit_jax.ops.positions import resample_bicubic_torch, resample_positions

# Positions of a 4096x4096 image with patches of 16x16. A file with more is damaged.
MAX_POSITIONS = 65_536
# The resampling method of torch without antialiasing, beside those of `jax.image.resize`.
TORCH_BICUBIC = "cubic_torch"


@dataclass(frozen=True)
class Positions:
    """Position embeddings for a model.

    Attributes:
        values: `[1, prefix + patches, D]`, with a prefix only if the model has positions of prefix tokens.
        prefix: `[P, D]`, positions to add to the first `P` prefix tokens, for a model without such positions; or None.
        is_resampled: Whether the grid was resampled.
        note: What was done with the positions of prefix tokens, or an empty string.
    """

    values: np.ndarray
    prefix: np.ndarray | None = None
    is_resampled: bool = False
    note: str = ""


def fit_positions(
    positions: np.ndarray, model: ViT, grid: tuple[int, int] | None, resampling: tuple[str, bool]
) -> Positions:
    """Fit position embeddings to a model.

    Files store positions of all prefix tokens, of the class tokens, or of none. A missing position is zero. A position
    that the model does not have is added to its token, because the embedding adds them.

    Args:
        positions: Tensor of the file.
        model: Model of `create_model`.
        grid: Patch grid of `positions`, or None if it is not specified.
        resampling: Method and antialiasing, as in `Format`, or `TORCH_BICUBIC` as the method.

    Returns:
        The positions. An invalid shape is returned unchanged, for the check of shapes.

    Raises:
        InvalidTensorError: The grid is ambiguous, or does not match.
    """
    if positions.ndim != 3 or positions.shape[0] != 1 or positions.shape[2] != model.embed_dim:
        return Positions(positions)
    size = _positioned(model)
    stored = _prefix_size(positions.shape[1], model, grid)
    prefix, note = None, ""
    if stored > size:
        prefix, positions = positions[0, :stored], positions[:, stored:]
        note = f"positions of prefix tokens that were added to the tokens: {stored}"
    elif stored < size:
        positions = np.insert(np.asarray(positions, np.float32), [stored] * (size - stored), 0, axis=1)
        note = f"positions of prefix tokens that are zero, because the file has none: {size - stored}"
    count, (height, width) = positions.shape[1] - size, model.grid
    side = round(max(count, 0) ** 0.5)
    if grid is not None and grid[0] * grid[1] != count:
        raise InvalidTensorError(f"expected {grid[0] * grid[1]} positions for grid {grid[0]}x{grid[1]}, got {count}")
    if grid is None and count > 0 and side * side == count:
        if count == height * width and height != width:
            raise InvalidTensorError(f"ambiguous grid, {side}x{side} or {height}x{width} (set grid or --grid)")
        grid = (side, side)
    if grid is None or grid == model.grid:
        return Positions(positions, prefix, note=note)
    if resampling[0] == TORCH_BICUBIC:
        resampled = resample_bicubic_torch(positions, size, grid, model.grid)
    else:
        resampled = np.asarray(resample_positions(positions, size, grid, model.grid, *resampling))
    return Positions(resampled, prefix, is_resampled=True, note=note)


def _positioned(model: ViT) -> int:
    """Return the number of prefix tokens that have a position in the model."""
    if model.no_embed_class:
        return 0
    return model.class_tokens if model.no_embed_reg else model.prefix


def _prefix_size(count: int, model: ViT, grid: tuple[int, int] | None) -> int:
    """Return the number of prefix tokens whose positions are among `count`; that of the model if none fits."""
    size = _positioned(model)
    patches = model.grid[0] * model.grid[1] if grid is None else grid[0] * grid[1]
    sizes = (size, model.prefix, int(model.class_token) + int(model.distilled), 0)

    def fits(rest: int) -> bool:
        is_square = grid is None and rest > 0 and round(rest**0.5) ** 2 == rest
        return rest == patches or is_square

    return next((each for each in sizes if fits(count - each)), size)
