import argparse

import pytest

from benchmarks import startup
from oass_jax.data import pipeline
from oass_jax.data.errors import UserError


def test_a_start_that_fails_tells_why(tmp_path):
    options = argparse.Namespace(
        page="max", image_px=33, batch_size=8, encoder="resnet_tiny", dtype="float32"
    )
    with pytest.raises(UserError, match=r"augment.image_px=33 is not a multiple of 32"):
        startup.first_step(options, tmp_path, "", tmp_path / "run")


def test_the_first_step_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    pipeline.open_split("digit_scenes", "val", data_dir=tmp_path, manual_dir=None)
    options = argparse.Namespace(
        page="supervised", image_px=32, batch_size=8, encoder="resnet_tiny", dtype="float32"
    )
    folder, cache = tmp_path / "run", tmp_path / "cache"
    assert startup.first_step(options, tmp_path, str(cache), folder) > 0
    assert "train/loss" in (folder / "metrics.jsonl").read_text()
    assert list(cache.iterdir())
