"""What makes a training step supervised, PuzzleCAM or OASS, and what it sees."""

from typing import NamedTuple

import jax
import optax
from jax.sharding import Mesh

from oass_jax.method import keypoint, mcar


class Views(NamedTuple):
    """A batch as the network sees it: images and boxes after augmentation.

    Attributes:
      image: `[B, H, W, 3]` float32, normalised, zero in the padding.
      label: `[B, C]` int, 1 present, 0 absent, -1 ignored.
      window: `[B, 2, 2]`, where the image lies on the canvas, see `augment.Placement`.
      boxes: `[B, M, 4]` float32, ymin, xmin, ymax, xmax in [0, 1] of the canvas.
      box_label: `[B, M]` int, class of each box, -1 for an unused slot.
      rng: `[B]` keys, of each image's keypoint; None where no strategy draws.
    """

    image: jax.Array
    label: jax.Array
    window: jax.Array
    boxes: jax.Array
    box_label: jax.Array
    rng: jax.Array | None = None


class Method(NamedTuple):
    """What makes a step supervised, PuzzleCAM or OASS.

    Attributes:
      teacher: 'none' (L_cls alone), 'siamese' (the student itself, with gradient: PuzzleCAM) or
        'ema' (the mean of past encoders: OASS).
      strategy: from `method.keypoint.KEYPOINTS`, with its options; None for no patches at all.
      margin_cells: minimum height and width of a patch.
      valid_only: choose keypoints on the image only, never on its padding.
      resize_patches: see `method.puzzle.cut`.
      alpha_p: step -> weight of L_p-cl.
      alpha_re: step -> weight of L_re.
      pos_weight: `[C]`, what a class that is present counts in L_cls and L_p-cl; None for 1.
      re_reduction: how L_re of an image is averaged, see `method.loss.reconstruction`.
      pcl_classes: channel-wise, the classes that L_p-cl of a pair is about: its 'own', or 'all'.
      ema_decay: largest decay of the EMA.
      chunk_pairs: channel-wise, the pairs a device computes together.
      regions: of MCAR's second stream; None for none.
      precision: of resampling, see `image.geometry.float32_precision`.
      mesh: one axis, `data`, over which the batch is split.
    """

    teacher: str
    strategy: keypoint.Strategy | None
    margin_cells: int
    valid_only: bool
    resize_patches: bool
    alpha_p: optax.Schedule
    alpha_re: optax.Schedule
    pos_weight: jax.Array | None
    re_reduction: str
    pcl_classes: str
    ema_decay: float
    chunk_pairs: int
    regions: mcar.Regions | None
    precision: jax.lax.PrecisionLike
    mesh: Mesh
