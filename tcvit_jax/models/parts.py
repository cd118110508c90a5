"""What a model asks of its exchangeable parts: an architecture is an embedding, a trunk and a head.

A part is a Flax module that shares the model's scope, so that parameters have the names they have in checkpoints. Its
fields are attributes of the model by the same names. It answers for itself: sizes, multiply-adds, what it reads.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from jax import Array
from jaxtyping import Bool, Float

from tcvit_jax.ops.rows import Rows
from tcvit_jax.tokens import Tokens


@runtime_checkable
class Embedding(Protocol):
    """From images to tokens."""

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in height and width."""
        ...

    @property
    def class_tokens(self) -> int:
        """The number of tokens, the first, that stand for the whole image."""
        ...

    @property
    def prefix(self) -> int:
        """The number of protected tokens in front of the patches, class tokens among them."""
        ...

    @property
    def macs(self) -> int:
        """Multiply-adds of one image."""
        ...

    def check(self) -> None:
        """Raise an `InputError` for sizes that do not fit each other."""
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
            train: whether dropout is on.
            rows: of the global batch; None where the batch is all of it.
            mix_mask: `[N0]` bool, the patches to take from a row's partner (MixToken; Jiang et al., 2021).

        Returns:
            `[B, T, D]`, prefix tokens first, in the compute dtype.
        """
        ...


class HeadOutputs(NamedTuple):
    """The outputs of a head's classifiers.

    Attributes:
        logits: `[B, num_classes]` float32, what evaluation reads.
        class_token: `[B, num_classes]` float32, of the head of the class token, or of the pooled patches.
        distillation_token: `[B, num_classes]` float32, of the head that learns from a teacher: the same one unless the
            model has a distillation token.
        patch_tokens: `[B, N, num_classes]` float32, of every patch token that is left; None for a model without.
    """

    logits: Float[Array, "B classes"]
    class_token: Float[Array, "B classes"]
    distillation_token: Float[Array, "B classes"]
    patch_tokens: Float[Array, "B N classes"] | None = None


@runtime_checkable
class Head(Protocol):
    """From the tokens after the last block to logits: the last norm, and the classifiers."""

    @property
    def reads_prefix_only(self) -> bool:
        """Whether it reads no patch token, so that the last block need not compute them."""
        ...

    @property
    def has_patch_logits(self) -> bool:
        """Whether it has logits for every patch token."""
        ...

    def macs(self, patches: int) -> int:
        """Return the multiply-adds of one image of which `patches` patch tokens are left."""
        ...

    def check(self) -> None:
        """Raise an `InputError` for values that do not fit each other."""
        ...

    def normalize(self, tokens: Tokens) -> Tokens:
        """Apply the last norm, where it comes before the pooling; all of the tokens, or prefix tokens alone."""
        ...

    def __call__(self, tokens: Tokens, train: bool, rows: Rows | None = None) -> HeadOutputs:
        """Classify normalized tokens.

        Args:
            tokens: of `normalize`; without patch tokens where the head reads none.
            train: whether dropout is on.
            rows: of the global batch; None where the batch is all of it.
        """
        ...
