"""An encoder without batch normalisation; the fixture `layer_norm_encoder` registers it."""

from typing import Any

import flax.linen as nn


class LayerNormEncoder(nn.Module):
    """Patches of 8 pixels, and two 3x3 blocks normalised over the channels; compiles fast."""

    dtype: Any
    remat: bool = False
    num_features: int = 32

    stride = 8

    @nn.compact
    def __call__(self, images, *, train):
        del train  # nothing depends on it
        patch = (self.stride, self.stride)
        x = nn.Conv(self.num_features, patch, patch, dtype=self.dtype, name="patchify")(images)
        block = nn.remat(Block) if self.remat else Block
        for i in range(2):
            x = block(self.dtype, name=f"block{i}")(x)
        return nn.LayerNorm(dtype=self.dtype, name="norm")(x)


class Block(nn.Module):
    """A 3x3 convolution in a residual branch."""

    dtype: Any

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        return x + nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype, name="conv")(nn.gelu(y))
