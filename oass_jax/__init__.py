"""Object-Aware Self-Supervised Multi-Label Learning (OASS) in JAX.

Xu Kaixin, Liu Liyang, Zhao Ziyuan, Zeng Zeng, Bharadwaj Veeravalli: "Object-Aware Self-Supervised
Multi-Label Learning", ICIP 2022. PuzzleCAM (Jo and Yu, ICIP 2021), its baseline, is the same loop
with other values of the config.

Where the paper is:

    Sec. 2.1, Eq. 1, k'         method/keypoint.py     class maps -> the cell where the image is cut
    Sec. 2.1, cut and tile      method/puzzle.py       four patches, and their maps back in place
    Sec. 2.1, Loss Design       method/loss.py         L_cls, L_p-cl, L_re and their weights
    Sec. 2.1, channel-wise      training/pairs.py      labelled (image, class) pairs, in chunks
    Sec. 2.1, EMA; Fig. 3       training/step.py       the training step in one screen
                                training/losses.py     the networks run for its three losses
    Sec. 2.2                    method/csi.py          class-specific instances
    Sec. 3.1                    image/augment.py       random resize, flip, crop or pad
    Tables 1 to 3               figures/paper.py       the paper's figures, and the row a run is of
    Figs. 2, 4, 5 and 6         figure.py              figures/ draws them
    f(x; theta), g(.; phi)      model/network.py       encoder f and classifier g
    Table 1, MCAR               method/mcar.py         regions of the strongest classes, seen again
    Table 1, SSGRL              model/ssgrl.py         a graph network over the classes

Symbols in shapes:

    B  batch                                  s  output stride, 16
    H, W  image size in pixels                D  feature channels (2048)
    h, w  H / s and W / s, feature cells      C  classes, never image channels
    N  examples: images, pairs or patches     P  labelled (image, class) pairs

Channels are last everywhere. Coordinates name their order and unit (`keypoint_yx`, `_px`, `_cell`);
boxes are ymin, xmin, ymax, xmax in [0, 1].
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oass_jax.evaluation.predictor import Predictor

__all__ = ["load"]


def load(
    workdir: str | os.PathLike,
    *,
    threshold: str | float = "best_f1",
    batch_size: int | None = None,
) -> "Predictor":
    """Opens a run to predict new images; its workdir is all that is needed.

        model = oass_jax.load("runs/max")
        result = model("photo.jpg")  # or a list of images; PIL's and arrays work, too
        result.labels, result.probability["dog"], result.overlay("dog")

    How an image is predicted is what `eval` of the run's config says. On a CPU the network computes
    in float32, which is faster there than bfloat16: the numbers of a run in bfloat16 then differ
    from those of its evaluation by rounding.

    Several threads may share what is returned, processes may not: after a fork it hangs. So load it
    in each worker of a server (of gunicorn without `--preload`), and start `multiprocessing` with
    'spawn'.

    Args:
      workdir: of the run.
      threshold: from which probability on a class is a label: 'best_f1' takes the thresholds that
        the run has chosen for each class, 0.5 where it has not; a number; or 'precision=0.9', the
        lowest of each class with that precision on the validation split.
      batch_size: images that are computed together, which changes no number; by default 1 on a CPU
        and else that of the evaluation.

    Raises:
      oass_jax.errors.UserError: there is no finished run, or the threshold is none of these.
    """
    # Late, so that importing the package costs nothing.
    from oass_jax.evaluation import predictor

    return predictor.load(workdir, threshold=threshold, batch_size=batch_size)
