"""The study on photographs: small images, full ImageNet weights, any of its rows.

    python -m oass_jax.main --config=photographs:max --workdir=runs/photographs/max \
        --config.data.manual_dir=DIR --config.model.pretrained=resnet50_v1.safetensors

`docs/results.md` says what it is, how its numbers were chosen, and what came out. The rows are
the keys of `ROWS`. The paper has no such setting.
"""

from typing import NamedTuple

from oass_jax import config_file

OASS, PUZZLECAM = (1 / 15, 1 / 15), (1.0, 4.0)  # weights of L_p-cl and L_re


def between(share):
    """Weights between those of OASS (0) and PuzzleCAM (1), in even ratios."""
    return tuple(a ** (1 - share) * b**share for a, b in zip(OASS, PUZZLECAM, strict=True))


class Row(NamedTuple):
    """A row of the study.

    Attributes:
      method: its config.
      weights: of L_p-cl and L_re; None for the method's own.
      epochs: of training.
    """

    method: str
    weights: tuple[float, float] | None = None
    epochs: float = 2.0


ROWS = {
    # With a teacher, so that its weights are evaluated, too.
    "supervised": Row("max", weights=(0.0, 0.0)),
    "max": Row("max"),
    "random": Row("random"),
    "max_csi": Row("max_csi"),
    "puzzlecam": Row("puzzlecam"),
    "puzzlecam_soft": Row("puzzlecam", weights=(0.25, 1.0)),
    "ctopk_w_csi": Row("ctopk_w_csi"),
    "gt_bbox": Row("gt_bbox"),
    "max_step1": Row("max", weights=between(1 / 3)),
    "max_step2": Row("max", weights=between(2 / 3)),
    "max_puzzlecam": Row("max", weights=PUZZLECAM),
    "supervised_long": Row("max", weights=(0.0, 0.0), epochs=8.0),
    "max_long": Row("max", epochs=8.0),
}


def get_config(row="max"):
    """Returns the configuration of a row of the study.

    Args:
      row: a key of `ROWS`.
    """
    if row not in ROWS:
        raise ValueError(f"the rows are {', '.join(ROWS)}")
    method, weights, epochs = ROWS[row]
    config = config_file.load_method(method)
    if weights is not None:
        config.loss.alpha_p, config.loss.alpha_re = weights
    config.num_epochs = epochs
    config.batch_size = 16
    config.data.canvas_px = 160
    config.augment.image_px = 128
    config.augment.long_side_px = (80, 160)
    config.keypoint.margin_cells = 1
    config.model.encoder = "resnet50_v1"
    config.model.dtype = "float32"
    config.optimizer.encoder_learning_rate = 2e-4  # tuned, see `docs/results.md`
    config.optimizer.head_learning_rate = 2e-3
    config.optimizer.warmup_epochs = 0.25
    config.eval.image_px = 160
    config.eval.batch_size = 16
    config.eval.every_epochs = 0.0  # the images of `val` are looked at once, at the end
    config.checkpoint.every_steps = 100
    config.checkpoint.keep_last = 1
    if config.teacher.mode == "ema":
        config.loss.alpha_p_ramp_epochs = config.get_ref("num_epochs") / 1.2
        config.loss.alpha_re_ramp_epochs = config.get_ref("num_epochs") / 1.2
    return config
