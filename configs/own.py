"""Images of your own: a network for the labels of a list, from ImageNet weights.

    python -m oass_jax.main --config=own --config.data.path=labels.csv --workdir=runs/own

`labels.csv` has a line an image: `image,labels` with `cat|dog`, and if you like `split`.
`--config=own:max` trains by another method of this folder. Every other field is in
`oass_jax/default_config.py`; `--mode=check` reads everything first, `--mode=dryrun` tells the time.
"""

from oass_jax import config_file


def get_config(method="supervised"):
    """Returns the configuration for images of one's own.

    Args:
      method: name of a config in this folder, whose method is trained.
    """
    config = config_file.load_method(method)
    epochs = config.get_ref("num_epochs")

    # What comes in. `csv`, `coco` (an instances JSON), `voc_folder` or `tfds`.
    config.data.dataset = "csv"
    config.data.path = ""  # the list: set it
    config.data.split = "train"
    config.eval.split = "val"  # a fifth of the images, where the list does not say which
    config.cam.split = "val"
    config.data.max_boxes = 128  # COCO has images of more than 90 objects

    # How long. As many epochs as suit the number of images, 10 to 60; ten evaluations on the way.
    config.num_epochs = 0.0
    config.eval.every_epochs = epochs / 10
    config.optimizer.warmup_epochs = epochs / 20
    config.batch_size = 16  # twice that where there is memory for it

    # How large. 448 px shows small objects; 224 takes a quarter of the arithmetic.
    config.data.canvas_px = 448
    config.augment.image_px = 448
    config.augment.long_side_px = (280, 560)  # images are resized to a long side between these
    config.eval.image_px = 448
    config.augment.flip_probability = 0.5  # 0 where a mirrored image is another class, as of text

    # Where rare classes matter as much as frequent ones: "frequency".
    config.loss.pos_weight = "none"

    # What OASS adds grows over most of the training.
    if config.teacher.mode == "ema":
        config.loss.alpha_p_ramp_epochs = epochs / 1.2
        config.loss.alpha_re_ramp_epochs = epochs / 1.2
    return config
