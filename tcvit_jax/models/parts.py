"""Protocols for the exchangeable parts of a model: an architecture is an embedding, a trunk and a head.

A part is a Flax module in the scope of the model, so its parameters keep the names of the checkpoint. Its fields are
attributes of the model with the same names.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from jax import Array
from jaxtyping import Bool, Float

from tcvit_jax.ops.rows import Rows
from tcvit_jax.tokens import Tokens


@runtime_checkable
class Embedding(Protocol):
    """A Flax module that maps images to tokens."""

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches along height and width."""
        ...

    @property
    def class_tokens(self) -> int:
        """Number of leading tokens that represent the image: class and distillation token."""
        ...

    @property
    def prefix(self) -> int:
        """Number of prefix tokens in front of the patches, including class tokens; reducers never remove them."""
        ...

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        ...

    def check(self) -> None:
        """Check the fields.

        Raises:
            InputError: A field is out of range, or fields do not fit each other.
        """
        ...

    def __call__(
        self,
        images: Float[Array, "B height width C"],
        train: bool,
        rows: Rows | None = None,
        mix_mask: Bool[Array, " N0"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Embed images.

        Args:
            images: `[B, H, W, C]` float.
            train: Whether dropout is on.
            rows: Rows of the global batch, None if `images` is the full batch.
            mix_mask: `[N0]` bool, the patches to take from each row's partner (MixToken; Jiang et al., 2021).

        Returns:
            `[B, T, D]` tokens in the computation dtype, prefix tokens first.
        """
        ...


class HeadOutputs(NamedTuple):
    """Outputs of a head's classifiers.

    Attributes:
        logits: `[B, num_classes]` float32 logits for evaluation.
        class_token: `[B, num_classes]` float32 logits of the class token, or of the pooled patch tokens.
        distillation_token: `[B, num_classes]` float32 logits that learn from a teacher; equal to `class_token` unless
            the model has a distillation token.
        patch_tokens: `[B, N, num_classes]` float32 logits of the remaining patch tokens; None if the head has none.
    """

    logits: Float[Array, "B classes"]
    class_token: Float[Array, "B classes"]
    distillation_token: Float[Array, "B classes"]
    patch_tokens: Float[Array, "B N classes"] | None = None


@runtime_checkable
class Head(Protocol):
    """A Flax module that maps the tokens after the last block to logits: final norm and classifiers."""

    @property
    def reads_prefix_only(self) -> bool:
        """Whether the head reads no patch token, so that the last block can skip them."""
        ...

    @property
    def has_patch_logits(self) -> bool:
        """Whether the head returns logits for every patch token."""
        ...

    def macs(self, patches: int) -> int:
        """Return the multiply-adds for one image with `patches` remaining patch tokens."""
        ...

    def check(self) -> None:
        """Check the fields.

        Raises:
            InputError: A field is out of range, or fields do not fit each other.
        """
        ...

    def normalize(self, tokens: Tokens) -> Tokens:
        """Apply the final norm if it comes before the pooling, to all tokens or to prefix tokens only."""
        ...

    def __call__(self, tokens: Tokens, train: bool, rows: Rows | None = None) -> HeadOutputs:
        """Classify normalized tokens.

        Args:
            tokens: Output of `normalize`, without patch tokens if the head reads none.
            train: Whether dropout is on.
            rows: Rows of the global batch, None if `tokens` holds the full batch.
        """
        ...
