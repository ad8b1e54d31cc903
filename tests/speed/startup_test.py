import argparse

import pytest

from benchmarks import startup
from oass_jax.errors import UserError


def test_a_start_that_fails_tells_why(tmp_path):
    options = argparse.Namespace(
        page="max", image_px=33, batch_size=8, encoder="resnet_tiny", dtype="float32"
    )
    with pytest.raises(UserError, match=r"augment.image_px=33 is not a multiple of 32"):
        startup.first_step(options, tmp_path, "", tmp_path / "run")
