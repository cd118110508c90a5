"""The Vision Transformer (Dosovitskiy et al., 2021), as timm builds it, with token reduction between its layers."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from tcvit_jax.errors import InputError
from tcvit_jax.models import tables
from tcvit_jax.models.cost import Cost, Shape, cost
from tcvit_jax.models.layers import Block, Dropout, Step, kernel_init, layer_norm
from tcvit_jax.ops import plans, rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.tokens import Tokens, Trace


class Heads(NamedTuple):
    """What the classifiers say.

    Attributes:
        logits: `[B, num_classes]` float32, what evaluation reads.
        class_token: `[B, num_classes]` float32, of the head of the class token, or of the pooled patches.
        distillation_token: `[B, num_classes]` float32, of the head that learns from a teacher: the same one unless the
            model has a distillation token.
        patch_tokens: `[B, N, num_classes]` float32, of every patch token that is left; None for a model without.
    """

    logits: Array
    class_token: Array
    distillation_token: Array
    patch_tokens: Array | None = None


class ViT(nn.Module):
    """A Vision Transformer; make one with `create_model`, which knows the names and checks the values.

    Attributes carry timm's names; without classes (`num_classes=0`) the pooled features `[B, D]` stand for the logits.
    `removed` is the resolved schedule: patch tokens that leave each block. `dtype` is that of the computation;
    parameters, softmax, norm statistics and rankings stay float32. On a TPU a map averaged over heads, which TC-ViT
    ranks by, has entries rounded as the values are.
    """

    variant: str
    img_size: tuple[int, int] = (224, 224)
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    class_token: bool = True
    distilled: bool = False
    global_pool: str = "token"
    fc_norm: bool | None = None
    init_values: float | None = None
    reg_tokens: int = 0
    no_embed_class: bool = False
    pre_norm: bool = False
    qk_norm: bool = False
    norm_eps: float = 1e-6
    act_layer: str = "gelu"
    skip_lam: float = 1.0
    drop_rate: float = 0.0
    pos_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    reducer: Reducer | None = None
    removed: tuple[int, ...] = ()
    dtype: str = "float32"

    # Values that an architecture derived from this one leaves no choice in.
    FIXED: ClassVar[dict[str, Any]] = {}
    PARAMETERS: ClassVar[tables.ParameterTable] = tables.VIT

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in height and width."""
        return self.img_size[0] // self.patch_size, self.img_size[1] // self.patch_size

    @property
    def prefix(self) -> int:
        """Protected tokens in front of the patches."""
        return self.class_tokens + self.reg_tokens

    @property
    def class_tokens(self) -> int:
        """The first of them, which stand for the image: class and distillation token."""
        return int(self.class_token) + int(self.distilled)

    @property
    def reads_prefix_alone(self) -> bool:
        """Whether the head reads nothing of the patch tokens, so that the last block need not compute them."""
        return self.global_pool == "token"

    @property
    def labels_patches(self) -> bool:
        """Whether it has a head on every patch token."""
        return False

    def check_stem(self) -> None:
        """Raise an `InputError` unless the stem can cut images into patches of `patch_size`: this one always can."""

    @property
    def _embed_macs(self) -> int:
        """Multiply-adds from the image to its patches."""
        return self.grid[0] * self.grid[1] * self.in_chans * self.patch_size**2 * self.embed_dim

    @property
    def _patch_classes(self) -> int:
        """Logits of every patch token that is left."""
        return 0

    def cost(self, removed: tuple[int, ...] | None = None) -> Cost:
        """Multiply-adds of one image, for this schedule or another one; zeros give the dense model's."""
        shape = Shape(
            patches=self.grid[0] * self.grid[1],
            prefix=self.prefix,
            embed=self._embed_macs,
            width=self.embed_dim,
            heads=self.num_heads,
            mlp_hidden=int(self.embed_dim * self.mlp_ratio),
            classes=self.num_classes * (1 + self.distilled),
            patch_classes=self._patch_classes,
            reads_prefix_alone=self.reads_prefix_alone,
        )
        return cost(shape, removed or self.removed or (0,) * self.depth, self.reducer)

    def _check(self, images: Array) -> None:
        expected = (*self.img_size, self.in_chans)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise InputError(
                f"images have shape {tuple(images.shape)}: {self.variant} takes [B, {', '.join(map(str, expected))}]"
            )

    @property
    def _norm_after_pooling(self) -> bool:
        return self.global_pool == "avg" if self.fc_norm is None else self.fc_norm

    def setup(self) -> None:
        """Sub-modules and parameters, under the names that `convert` knows."""
        width = self.embed_dim
        self.patch_embed = self._stem()
        kinds = {"cls_token": int(self.class_token), "dist_token": int(self.distilled), "reg_token": self.reg_tokens}
        self.prefix_tokens = [
            self.param(name, nn.initializers.normal(1e-6), (1, count, width)) for name, count in kinds.items() if count
        ]
        positions = self.grid[0] * self.grid[1] + (0 if self.no_embed_class else self.prefix)
        self.pos_embed = self.param("pos_embed", nn.initializers.normal(0.02), (1, positions, width))
        self.pos_drop = Dropout(self.pos_drop_rate)
        if self.pre_norm:
            self.norm_pre = layer_norm(self.norm_eps, None, self.dtype)
        self.blocks = [
            Block(
                num_heads=self.num_heads,
                mlp_hidden=int(width * self.mlp_ratio),
                qkv_bias=self.qkv_bias,
                qk_norm=self.qk_norm,
                init_values=self.init_values,
                skip_lam=self.skip_lam,
                norm_eps=self.norm_eps,
                act_layer=self.act_layer,
                drop_rate=self.proj_drop_rate,
                drop_path_rate=self.drop_path_rate * index / max(self.depth - 1, 1),
                reducer=self.reducer,
                dtype=self.dtype,
            )
            for index in range(self.depth)
        ]
        if self._norm_after_pooling:
            self.fc_norm_layer = layer_norm(self.norm_eps, "fc_norm", self.dtype)
        else:
            self.norm = layer_norm(self.norm_eps, None, self.dtype)
        self.head_drop = Dropout(self.drop_rate)
        if self.num_classes:
            self.head = self._classifier()
            if self.distilled:
                self.head_dist = self._classifier()

    def _classifier(self) -> nn.Dense:
        return nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=kernel_init)

    def _stem(self) -> nn.Module:
        """The layer from images `[B, H, W, C]` to patches `[B, height, width, D]`."""
        patch = (self.patch_size, self.patch_size)
        return nn.Conv(
            self.embed_dim, patch, strides=patch, padding="VALID", use_bias=not self.pre_norm, dtype=self.dtype,
            kernel_init=nn.initializers.lecun_normal(),
        )  # fmt: skip

    def _patches(self, images: Array, train: bool) -> Array:
        """What the stem makes of the images."""
        return self.patch_embed(images)

    def _embed(self, images: Array, train: bool, mixed: Array | None = None) -> Array:
        """Patches, prefix tokens and positions, `[B, T, D]`; `mixed [N0]` patches are the neighbouring row's."""
        x = self._patches(images.astype(self.dtype), train)
        x = x.reshape(x.shape[0], -1, self.embed_dim)
        if mixed is not None:
            x = jnp.where(mixed[:, None], rows.neighbour(x), x)
        prefix = [jnp.broadcast_to(p, (x.shape[0], *p.shape[1:])).astype(x.dtype) for p in self.prefix_tokens]
        pos_embed = self.pos_embed.astype(x.dtype)
        if self.no_embed_class:
            x = jnp.concatenate([*prefix, x + pos_embed], axis=1)
        else:
            x = jnp.concatenate([*prefix, x], axis=1) + pos_embed
        x = self.pos_drop(x, train)
        return self.norm_pre(x) if self.pre_norm else x

    def _condense(
        self, images: Array, *, train: bool, prefix_alone: bool, blend: bool, mixed: Array | None = None
    ) -> tuple[Tokens, Trace]:
        """The tokens after the last block.

        Args:
            images: `[B, H, W, C]`.
            train: whether dropout and drop-path are on.
            prefix_alone: nobody reads the patch tokens after the last block, nor what it kept: it computes neither.
            blend: carry what restores shared tokens.
            mixed: as in `outputs`.
        """
        self._check(images)
        tokens = self.start(images, train, mixed)
        if self.reducer is not None and self.reducer.shares and blend and any(self.removed):
            tokens = tokens.with_blend()
        history = Trace()
        for block, step in zip(self.blocks, self.steps(prefix_alone), strict=True):
            tokens = block(tokens, step, train)
            history = history.record(tokens)
        return tokens, history

    def start(self, images: Array, train: bool = False, mixed: Array | None = None) -> Tokens:
        """The embedded tokens of images, with what the reducer prepares once."""
        tokens = Tokens.start(self._embed(images, train, mixed), self.prefix, self.class_tokens, self.depth)
        if self.reducer is None or not any(self.removed):
            return tokens
        return tokens.with_state(self.reducer.prepare(tokens, self.grid))

    def steps(self, prefix_alone: bool) -> tuple[Step, ...]:
        """What every block does; with `prefix_alone` the last one computes prefix tokens and nothing else."""
        removed = self.removed or (0,) * self.depth
        reducer = self.reducer if any(removed) else None
        steps = []
        for index, remove in enumerate(removed):
            # As soon as tokens have left, those that are left may stand for several, or for none.
            after = reducer if any(removed[:index]) else None
            steps.append(
                Step(
                    remove,
                    weighted=after is not None and after.proportional_attention,
                    masked=after is not None and after.masks,
                    keep=1.0 if reducer is None else reducer.attention_keep,
                    read=self.prefix if prefix_alone and index == self.depth - 1 else None,
                )
            )
        return tuple(steps)

    def heads(self, tokens: Tokens, train: bool) -> Heads:
        """From the tokens after the last norm (see `normed`), or its prefix alone, to what the classifiers say."""
        x = tokens.x
        pooled = self._mean(x[:, self.prefix :], tokens.size) if self.global_pool == "avg" else x[:, 0]
        logits = self._before_head(pooled, train)
        logits = self.head(logits) if self.num_classes else logits
        if not self.distilled:
            logits = logits.astype(jnp.float32)
            return Heads(logits, logits, logits)
        other = self._before_head(x[:, 1], train)
        other = self.head_dist(other) if self.num_classes else other
        mean = (logits + other) / 2
        return Heads(mean.astype(jnp.float32), logits.astype(jnp.float32), other.astype(jnp.float32))

    def normed(self, tokens: Tokens) -> Tokens:
        """The tokens after the last norm, where it comes before the pooling."""
        return tokens if self._norm_after_pooling else tokens.with_x(self.norm(tokens.x))

    def logits(self, tokens: Tokens, train: bool) -> Array:
        """From the tokens after the last block, or its prefix alone, to `[B, num_classes]`."""
        return self.heads(self.normed(tokens), train).logits

    def outputs(
        self, images: Array, *, train: bool = False, patches: bool = False, mixed: Array | None = None
    ) -> tuple[Heads, Tokens]:
        """Everything that a training loss reads.

        Args:
            images: `[B, H, W, C]` float.
            train: as for logits.
            patches: whether anybody reads the tokens; where not, and where the head does not either, the last block
                computes prefix tokens alone.
            mixed: `[N0]` bool, the patches that come of the neighbouring row (0 and 1, 2 and 3) instead of the own one:
                MixToken (Jiang et al., 2021). None for none.

        Returns:
            What the heads say, and the `Tokens` that they read, after the last norm; with `patches` they carry what
            restores them.
        """
        alone = self.reads_prefix_alone and not patches
        tokens, _ = self._condense(images, train=train, prefix_alone=alone, blend=patches, mixed=mixed)
        tokens = self.normed(tokens)
        return self.heads(tokens, train), tokens

    def _mean(self, x: Array, size: Array) -> Array:
        """The mean of patch tokens `x [B, N, D]`, each counted as often as it stands for a patch if sizes are such."""
        if self.reducer is None or not self.reducer.weighs or not any(self.removed):
            return x.mean(1)
        share = size / size.sum(-1, keepdims=True)
        return jnp.einsum("bn,bnd->bd", share, x.astype(jnp.float32), precision="highest").astype(x.dtype)

    def _before_head(self, pooled: Array, train: bool) -> Array:
        pooled = self.fc_norm_layer(pooled) if self._norm_after_pooling else pooled
        return self.head_drop(pooled, train)

    def __call__(self, images: Array, *, train: bool = False, trace: bool = False) -> Array | tuple[Array, Trace]:
        """Logits of normalised images.

        Where the head reads prefix tokens alone and no trace is asked for, the last block computes nothing else: its
        patch tokens would not change the logits. (With dropout, a trace changes which numbers are drawn there.)

        Args:
            images: `[B, H, W, C]` float.
            train: turns dropout and drop-path on; `apply` then needs `rngs={"dropout": key}`.
            trace: also return what every block kept.

        Returns:
            Logits `[B, num_classes]` float32, the mean of both heads' for a distilled model; or `(logits, Trace)`.

        Raises:
            InputError: images of another shape than the model's.
        """
        alone = self.reads_prefix_alone and not trace
        tokens, history = self._condense(images, train=train, prefix_alone=alone, blend=False)
        logits = self.logits(tokens, train)
        return (logits, history) if trace else logits

    def features(
        self, images: Array, *, restore: bool = False, train: bool = False, trace: bool = False
    ) -> Array | tuple[Array, Trace]:
        """The tokens that the head reads, after the last norm (timm's `forward_features`).

        Args:
            images: `[B, H, W, C]` float.
            restore: the patch tokens back on their grid instead, each patch with the features of the token that holds
                it, or the most of it; zero where it was lost. Patches that a method splits among several tokens (soft
                fusion) get their weighted mean.
            train, trace: as for logits.

        Returns:
            `[B, T, D]`, prefix tokens first, in the compute dtype; with `restore`, `[B, height, width, D]` in patches.
            With `trace`, `(features, Trace)`.

        Raises:
            InputError: images of another shape than the model's.
        """
        tokens, history = self._condense(images, train=train, prefix_alone=False, blend=restore)
        x = self.normed(tokens).x
        if restore:
            x = plans.restore(x[:, self.prefix :], tokens.slots, tokens.blend)
            x = x.reshape(x.shape[0], *self.grid, x.shape[-1])
        return (x, history) if trace else x
