"""The study on photographs: small images, full ImageNet weights, any of its rows.

    python -m oass_jax.main --config=photographs:max --workdir=runs/photographs/max \
        --config.data.manual_dir=DIR --config.model.pretrained=resnet50_v1.safetensors

`docs/results.md` says what it is, how its numbers were chosen, and what came out. The rows are
the keys of `ROWS`. The paper has no such setting.
"""

from oass_jax import config_file

OASS, PUZZLECAM = (1 / 15, 1 / 15), (1.0, 4.0)  # weights of L_p-cl and L_re


def between(share):
    """Weights between those of OASS (0) and PuzzleCAM (1), in even ratios."""
    return tuple(a ** (1 - share) * b**share for a, b in zip(OASS, PUZZLECAM, strict=True))


# Name -> config of a method, weights where they are others than its own, and epochs. Those without
# patches have a teacher, so that its weights are evaluated, too.
ROWS = {
    "supervised": ("max", (0.0, 0.0), 2.0),
    "max": ("max", None, 2.0),
    "random": ("random", None, 2.0),
    "max_csi": ("max_csi", None, 2.0),
    "puzzlecam": ("puzzlecam", None, 2.0),
    "puzzlecam_soft": ("puzzlecam", (0.25, 1.0), 2.0),
    "ctopk_w_csi": ("ctopk_w_csi", None, 2.0),
    "gt_bbox": ("gt_bbox", None, 2.0),
    "max_step1": ("max", between(1 / 3), 2.0),
    "max_step2": ("max", between(2 / 3), 2.0),
    "max_puzzlecam": ("max", PUZZLECAM, 2.0),
    "supervised_long": ("max", (0.0, 0.0), 8.0),
    "max_long": ("max", None, 8.0),
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
