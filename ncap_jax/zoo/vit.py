"""Vision transformers ViT-Ti/16, S/16 and B/16 (Dosovitskiy et al. 2021), named as in timm.

The weights are those of "How to train your ViT?" (Steiner et al. 2021): ImageNet-21k, then
fine-tuned on ImageNet at 224 pixels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo.layers import Backbone, Conv, Dense, LayerNorm, truncated_normal
from ncap_jax.zoo.weights.published import timm_url

PATCH = 16
GRID = 14  # patches a side at 224 pixels, what the position embeddings were trained for
DEPTH = 12
HEAD_WIDTH = 64


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        width: of the tokens.
        name: published prefix.
        options: `dtype` and `rngs`.
    """

    def __init__(self, width: int, name: str, **options: Any):
        def dense(inputs: int, outputs: int, suffix: str) -> Dense:
            init = truncated_normal
            return Dense(inputs, outputs, name=f"{name}.{suffix}", kernel_init=init, **options)

        self.norm1 = LayerNorm(width, name=f"{name}.norm1", **options)
        self.qkv = dense(width, 3 * width, "attn.qkv")
        self.proj = dense(width, width, "attn.proj")
        self.norm2 = LayerNorm(width, name=f"{name}.norm2", **options)
        self.fc1 = dense(width, 4 * width, "mlp.fc1")
        self.fc2 = dense(4 * width, width, "mlp.fc2")

    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, tokens, width) -> the same."""
        x = x + self.proj(self.attend(self.norm1(x)))
        return x + self.fc2(nnx.gelu(self.fc1(self.norm2(x)), approximate=False))

    def attend(self, x: jax.Array) -> jax.Array:
        """softmax(q k^T / sqrt(64)) v in heads of 64 channels."""
        batch, tokens, width = x.shape
        heads = self.qkv(x).reshape(batch, tokens, 3, width // HEAD_WIDTH, HEAD_WIDTH)
        q, k, v = heads[:, :, 0], heads[:, :, 1], heads[:, :, 2]
        return jax.nn.dot_product_attention(q, k, v).reshape(batch, tokens, width)


class ViT(Backbone):
    """A vision transformer; its features are the class token behind the last layer norm.

    At other sizes than 224 pixels the position embeddings are resized (bicubic, antialiased).

    Args:
        width: of the tokens, a multiple of 64.
        dtype: compute dtype.
        rngs: random streams.
    """

    # Parameters that belong to no layer.
    published = (("cls_token", "cls_token"), ("pos_embed", "pos_embed"))

    def __init__(self, width: int, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.patches = Conv(
            3, width, PATCH, PATCH, padding="VALID", bias=True, name="patch_embed.proj", **options
        )
        self.cls_token = nnx.Param(truncated_normal(rngs.params(), (1, 1, width)))
        self.pos_embed = nnx.Param(truncated_normal(rngs.params(), (1, 1 + GRID**2, width)))
        self.blocks = nnx.List([Block(width, f"blocks.{i}", **options) for i in range(DEPTH)])
        self.norm = LayerNorm(width, name="norm", **options)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """Tokens (batch, 1 + patches, width): `patch_embed`, `blocks.0` ... `blocks.11`, `norm`."""
        x = self.patches(x)
        batch, rows, columns, width = x.shape
        start = jnp.broadcast_to(self.cls_token[...].astype(x.dtype), (batch, 1, width))
        x = jnp.concatenate([start, x.reshape(batch, rows * columns, width)], axis=1)
        x = x + self.positions(rows, columns).astype(x.dtype)
        stages = {"patch_embed": x}
        for number, block in enumerate(self.blocks):
            x = block(x)
            stages[f"blocks.{number}"] = x
        stages["norm"] = self.norm(x)
        return stages

    def positions(self, rows: int, columns: int) -> jax.Array:
        """Position embeddings (1, 1 + rows * columns, width) for a grid of patches."""
        embeddings = self.pos_embed[...]
        if (rows, columns) == (GRID, GRID):
            return embeddings
        width = embeddings.shape[-1]
        grid = embeddings[:, 1:].reshape(1, GRID, GRID, width)
        grid = jax.image.resize(grid, (1, rows, columns, width), "cubic", antialias=True)
        return jnp.concatenate([embeddings[:, :1], grid.reshape(1, -1, width)], axis=1)

    def sized_weights(self, size: int) -> dict[str, jax.Array]:
        """The position embeddings for the grid of patches."""
        return {"pos_embed": self.positions(size // PATCH, size // PATCH)}

    def features(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, 3) float, already preprocessed -> (batch, width), float32 up."""
        token = self.stages(x)["norm"][:, 0]
        return token.astype(jnp.promote_types(token.dtype, jnp.float32))


def _spec(name: str, size: str, width: int, parameters: int) -> ModelSpec:
    published = f"vit_{size}_patch16_224.augreg_in21k_ft_in1k"
    return ModelSpec(
        name=name,
        build=partial(ViT, width),
        input_size=PATCH * GRID,
        feature_width=width,
        preprocessing="tf",
        weights=timm_url(published),
        parameters=parameters,
        source="imagenet2012",
        licence="Apache-2.0",
        citation="Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv 2010.11929",
        description=f"vision transformer, 12 blocks of width {width}, patches of 16",
        family="vit",
        layout=WeightsLayout("torch", ("head",), file=f"{published}.safetensors"),
    )


SPECS: tuple[ModelSpec, ...] = (
    _spec("vit_ti16", "tiny", 192, 5_524_416),
    _spec("vit_s16", "small", 384, 21_665_664),
    _spec("vit_b16", "base", 768, 85_798_656),
)
