"""The Vision Transformer (Dosovitskiy et al., 2021), as timm builds it, with token reduction between its layers."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from tcvit_jax.errors import InputError
from tcvit_jax.models.cost import Cost, Shape, cost
from tcvit_jax.models.layers import Block, layer_norm, linear
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.tokens import Tokens, Trace


class ViT(nn.Module):
    """A Vision Transformer; make one with `create_model`, which knows the names and checks the values.

    Attributes carry timm's names. `removed` is the resolved schedule: patch tokens that leave each block. `dtype` is
    that of the computation; parameters, softmax, norm statistics and rankings stay float32.
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
    global_pool: str = "token"
    fc_norm: bool | None = None
    init_values: float | None = None
    reg_tokens: int = 0
    no_embed_class: bool = False
    pre_norm: bool = False
    qk_norm: bool = False
    norm_eps: float = 1e-6
    skip_lam: float = 1.0
    drop_rate: float = 0.0
    pos_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    reducer: Reducer | None = None
    removed: tuple[int, ...] = ()
    dtype: str = "float32"

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in height and width."""
        return self.img_size[0] // self.patch_size, self.img_size[1] // self.patch_size

    @property
    def prefix(self) -> int:
        """Protected tokens in front of the patches."""
        return int(self.class_token) + self.reg_tokens

    def cost(self, removed: tuple[int, ...] | None = None) -> Cost:
        """Multiply-adds of one image, for this schedule or another one; zeros give the dense model's."""
        shape = Shape(
            patches=self.grid[0] * self.grid[1],
            prefix=self.prefix,
            patch_values=self.in_chans * self.patch_size**2,
            width=self.embed_dim,
            heads=self.num_heads,
            mlp_hidden=int(self.embed_dim * self.mlp_ratio),
            classes=self.num_classes,
        )
        return cost(shape, removed or self.removed or (0,) * self.depth, self.reducer)

    def _check(self, images: Array) -> None:
        expected = (*self.img_size, self.in_chans)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise InputError(
                f"images have shape {tuple(images.shape)}: {self.variant} takes [B, {', '.join(map(str, expected))}]"
            )

    def _embed(self, images: Array, train: bool) -> Array:
        """Patches, prefix tokens and positions, `[B, T, D]`."""
        patch = (self.patch_size, self.patch_size)
        project = nn.Conv(
            self.embed_dim, patch, strides=patch, padding="VALID", use_bias=not self.pre_norm, dtype=self.dtype,
            kernel_init=nn.initializers.lecun_normal(), name="patch_embed",
        )  # fmt: skip
        x = project(images.astype(self.dtype))
        batch, patches = x.shape[0], self.grid[0] * self.grid[1]
        x = x.reshape(batch, patches, self.embed_dim)

        prefix = []
        if self.class_token:
            prefix.append(self.param("cls_token", nn.initializers.normal(1e-6), (1, 1, self.embed_dim)))
        if self.reg_tokens:
            prefix.append(self.param("reg_token", nn.initializers.normal(1e-6), (1, self.reg_tokens, self.embed_dim)))
        prefix = [jnp.broadcast_to(p, (batch, *p.shape[1:])).astype(x.dtype) for p in prefix]
        positions = patches + (0 if self.no_embed_class else self.prefix)
        pos_embed = self.param("pos_embed", nn.initializers.normal(0.02), (1, positions, self.embed_dim)).astype(
            x.dtype
        )
        if self.no_embed_class:
            x = jnp.concatenate([*prefix, x + pos_embed], axis=1)
        else:
            x = jnp.concatenate([*prefix, x], axis=1) + pos_embed
        x = nn.Dropout(self.pos_drop_rate, name="pos_drop")(x, deterministic=not train)
        return layer_norm(self.norm_eps, "norm_pre", self.dtype)(x) if self.pre_norm else x

    def _pool(self, tokens: Tokens) -> Array:
        """What the head reads, `[B, D]`: the class token, or the plain mean of the surviving patch tokens."""
        average = self.global_pool == "avg"
        norm_after_pooling = average if self.fc_norm is None else self.fc_norm
        x = tokens.x if norm_after_pooling else layer_norm(self.norm_eps, "norm", self.dtype)(tokens.x)
        x = x[:, tokens.prefix :].mean(1) if average else x[:, 0]
        return layer_norm(self.norm_eps, "fc_norm", self.dtype)(x) if norm_after_pooling else x

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False, trace: bool = False) -> Array | tuple[Array, Trace]:
        """Logits of normalised images.

        Args:
            images: `[B, H, W, C]` float.
            train: turns dropout and drop-path on; `apply` then needs `rngs={"dropout": key}`.
            trace: also return what every block kept.

        Returns:
            Logits `[B, num_classes]` float32, or `(logits, Trace)`.

        Raises:
            InputError: images of another shape than the model's.
        """
        self._check(images)
        tokens = Tokens.start(self._embed(images, train), self.prefix)
        if self.reducer is not None and any(self.removed):
            tokens = tokens.with_state(self.reducer.prepare(tokens, self.grid))
        history, weighted = Trace(), False
        for index, remove in enumerate(self.removed or (0,) * self.depth):
            block = Block(
                num_heads=self.num_heads,
                mlp_hidden=int(self.embed_dim * self.mlp_ratio),
                qkv_bias=self.qkv_bias,
                qk_norm=self.qk_norm,
                init_values=self.init_values,
                skip_lam=self.skip_lam,
                norm_eps=self.norm_eps,
                drop_rate=self.proj_drop_rate,
                drop_path_rate=self.drop_path_rate * index / max(self.depth - 1, 1),
                reducer=self.reducer,
                dtype=self.dtype,
                name=f"blocks_{index}",
            )
            tokens = block(tokens, remove, weighted, train)
            weighted = self.reducer is not None and self.reducer.proportional_attention and (weighted or remove > 0)
            history = history.record(tokens)
        x = nn.Dropout(self.drop_rate, name="head_drop")(self._pool(tokens), deterministic=not train)
        logits = linear(x, self.num_classes, "head", self.dtype).astype(jnp.float32)
        return (logits, history) if trace else logits
