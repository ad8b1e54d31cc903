"""The demo: OASS `max` from random weights on scenes of real handwriting, minutes on two cores.

    bash launch/demo.sh
    python -m oass_jax.main --config=demo:ctopk_w_csi --workdir=runs/demo_ctopk_w_csi

The config of any method can be named after the colon: that method, on these scenes.
The default is `max` because the demo shows what OASS does, keypoints and patches included; plain
supervised training, `demo:supervised`, learns these scenes as well (`docs/results.md`).
The paper has no row for it. Measured on two CPU cores: 362 images/s, 1.3 GB, 202 s from a fresh
clone to the result with everything installed on the way; 96.3 mAP (one seed).
"""

from oass_jax import config_file


def get_config(method="max"):
    """Returns the configuration of the demo.

    Args:
      method: name of a config in this folder, whose method is trained.
    """
    config = config_file.load_method(method)
    config.num_epochs = 12.0
    config.batch_size = 32
    config.log_every_steps = 50
    config.data.dataset = "digit_scenes"
    config.data.split = "train"
    config.data.canvas_px = 96
    config.data.max_boxes = 8
    config.data.cache = True
    config.augment.image_px = 96
    config.augment.long_side_px = (80, 112)
    config.augment.flip_probability = 0.0  # a mirrored digit is none
    config.model.encoder = "resnet_tiny"
    config.model.dtype = "float32"
    config.model.pretrained = ""
    config.keypoint.margin_cells = 1
    if config.teacher.mode == "ema":
        config.loss.alpha_p_ramp_epochs = config.get_ref("num_epochs") / 1.2
        config.loss.alpha_re_ramp_epochs = config.get_ref("num_epochs") / 1.2
    if config.teacher.mode == "siamese":
        # From random weights, losses as strong as PuzzleCAM's must wait until there are maps.
        config.loss.start_epochs = config.get_ref("num_epochs") / 2
    config.optimizer.encoder_learning_rate = 3e-3
    config.optimizer.head_learning_rate = 3e-3
    config.eval.image_px = 96
    config.eval.batch_size = 100
    config.eval.every_epochs = 3.0
    config.checkpoint.every_steps = 250
    return config
