"""Decoders for tests."""

import flax.linen as nn
import jax
import jax.numpy as jnp

import tcvit_jax as tc


class Pointwise(nn.Module):
    """A linear layer on each patch: classes, or a probability for one channel."""

    channels: int = 1

    @nn.compact
    def __call__(self, features):
        scores = nn.Dense(self.channels, name="layer")(features)
        return jax.nn.sigmoid(scores) if self.channels == 1 else scores


class Renamed(Pointwise):
    """The same, with the weights of another library."""

    @staticmethod
    def convert(tensors):
        return {"params": {"layer": {"kernel": tensors["weight"].T, "bias": tensors["bias"]}}}


class Nan(nn.Module):
    """A map that is NaN for some images."""

    @nn.compact
    def __call__(self, features):
        first = features[:, :1, :1, :1]
        return jnp.where(first > first.mean(), jnp.nan, features[..., :1])


class Pooled(nn.Module):
    """Not a map."""

    @nn.compact
    def __call__(self, features):
        return nn.Dense(1, name="layer")(features.mean((1, 2)))


def three_classes():
    return Pointwise(3)


def refuse():
    raise tc.InputError("no decoder today")


NUMBER = 3
