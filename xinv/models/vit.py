"""Vision transformers: Dosovitskiy et al. 2021 (arXiv 2010.11929)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from xinv.models.blocks import classifier, layer_norm, patchify
from xinv.models.table import ACTIVATIONS
from xinv.numbers import require_count
from xinv.types import InputError, Model


@functools.cache
def vit(
    classes: int,
    patch: int = 4,
    width: int = 192,
    depth: int = 12,
    heads: int = 3,
    expansion: int = 4,
    dtype: str = "float32",
) -> Model:
    """A vision transformer with a class token, norms before each branch, and learned positions.

    The defaults are ViT-Tiny for images of some 32×32; for some 224×224 it has a `patch` of 16.
    ViT-Small has a `width` of 384 and 6 `heads`, ViT-Base 768 and 12. The last block's normalised
    tokens without the class token are marked "cam", as a grid; `embed` returns the class token.

    Args:
      classes: number of logits.
      patch: pixels along each side of a patch; it divides the images' height and width.
      width: channels of a token, a multiple of `heads`.
      depth: number of blocks.
      heads: attention heads of each block.
      expansion: hidden channels of a block's MLP, as a multiple of `width`.
      dtype: of the computation, "float32" or "bfloat16"; parameters and logits are float32.

    Returns:
      A model of images [N,H,W,C] in [0,1], with logits [N,classes]; `init` fixes H and W.

    Raises:
      InputError: an argument is not one of those. `init` and `apply` raise it for images of a size
        that `patch` does not divide, and `apply` for another size than that of `init`.
    """
    # Refuse a bad size now, not at the first call.
    require_count(
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        expansion=expansion,
    )
    if width % heads:
        raise InputError(f"width is {width} but must be a multiple of the {heads} heads")
    return classifier(ViT(patch, width, depth, heads, expansion), classes, dtype)


class ViT(nn.Module):
    """The class token after the last block, [N,width]."""

    patch: int
    width: int
    depth: int
    heads: int
    expansion: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        if x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise InputError(
                f"images of {x.shape[1]}×{x.shape[2]} do not divide into patches of {self.patch}"
            )
        # Each patch becomes a token of `width` channels.
        x = patchify(x, self.width, self.patch)
        grid = x.shape[1:3]
        x = x.reshape(len(x), -1, self.width)
        # The class token comes first, and every token has a learned position.
        first = self.param(
            "class_token",
            nn.initializers.zeros,
            (1, 1, self.width),
            jnp.float32,
        )
        first = jnp.broadcast_to(first.astype(x.dtype), (len(x), 1, self.width))
        x = jnp.concatenate([first, x], axis=1)
        x = x + self._positions(x.shape[1], grid).astype(x.dtype)
        for index in range(self.depth):
            last = index == self.depth - 1
            x = _Block(self.heads, self.expansion, grid if last else None)(x)
        return layer_norm(x[:, 0])

    def _positions(self, tokens: int, grid: tuple[int, int]) -> jax.Array:
        """Returns learned positions [1,tokens,width]; InputError if `init` saw another number."""
        # Flax would name shapes of parameters; the cause is the size of the images.
        if self.has_variable("params", "position"):
            known = self.get_variable("params", "position").shape[1]
            if known != tokens:
                raise InputError(
                    f"images of {grid[0]}×{grid[1]} patches have {tokens} tokens, but the positions"
                    f" of {known} were learned: give images of the size that the model was made for"
                )
        shape = (1, tokens, self.width)
        return self.param(
            "position",
            nn.initializers.normal(0.02),
            shape,
            jnp.float32,
        )


class _Block(nn.Module):
    """Attention, then an MLP; `grid` is the patches' height and width, to mark them, or None."""

    heads: int
    expansion: int
    grid: tuple[int, int] | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        # Attention between the tokens.
        y = layer_norm(x)
        y = _marked(y, self.grid) if self.grid else y
        x = x + _Attention(self.heads)(y)
        # An MLP on each token.
        y = _dense(self.expansion * channels, x.dtype)(layer_norm(x))
        return x + _dense(channels, x.dtype)(ACTIVATIONS["gelu"](y))


class _Attention(nn.Module):
    """Multi-head self-attention of tokens [N,T,c]."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        count, tokens, channels = x.shape
        each = channels // self.heads
        # One product for queries, keys and values.
        joined = _dense(3 * channels, x.dtype)(x)
        joined = joined.reshape(count, tokens, 3, self.heads, each)
        query, key, value = (joined[:, :, part] for part in range(3))
        scores = jnp.einsum("nqhd,nkhd->nhqk", query * each**-0.5, key)
        # A softmax in bfloat16 would not sum to one.
        weights = nn.softmax(scores.astype(jnp.float32)).astype(x.dtype)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", weights, value)
        return _dense(channels, x.dtype)(mixed.reshape(count, tokens, channels))


def _dense(outputs: int, dtype: jnp.dtype) -> nn.Dense:
    return nn.Dense(
        outputs,
        dtype=dtype,
        kernel_init=nn.initializers.xavier_uniform(),
    )


def _marked(tokens: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Marks the patches among tokens [N,1+h·w,c] as a map [N,h,w,c] named "cam"."""
    # The class token stays outside: a map needs a full grid.
    maps = tokens[:, 1:].reshape(len(tokens), *grid, tokens.shape[-1])
    patches = checkpoint_name(maps, "cam").reshape(
        len(tokens),
        -1,
        tokens.shape[-1],
    )
    return jnp.concatenate([tokens[:, :1], patches], axis=1)
