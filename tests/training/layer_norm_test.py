"""An encoder without batch normalisation: an empty collection trains, is saved and is evaluated."""

import json
import shutil

import numpy as np

from tests.commands import call, leaves, losses, words


def test_without_batch_normalisation_a_run_is_trained_resumed_and_evaluated(
    layer_norm_encoder, digits, tmp_path
):
    """With an EMA teacher, whose running statistics are empty, too."""

    def command(name, *changes):
        encoder = f"--config.model.encoder={layer_norm_encoder}"
        return words(digits, tmp_path / name, encoder, *changes, config="demo:max")

    done = call(command("whole"))
    assert done.returncode == 0, done.stderr
    saved = leaves(tmp_path / "whole", 6)
    assert any(path.startswith("['teacher']['params']") for path in saved["model"])
    assert not [path for path in saved["model"] if "batch_stats" in path]

    # Damaged at the end, it goes on from the checkpoint before.
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    (tmp_path / "resumed" / "checkpoints" / "6" / "record" / "metadata").unlink()
    done = call(command("resumed"))
    assert done.returncode == 0, done.stderr
    assert "resumed from the checkpoint of step 4\n" in done.stdout
    assert leaves(tmp_path / "resumed", 6) == saved
    assert losses(tmp_path / "resumed") == losses(tmp_path / "whole")

    done = call(command("whole", "--mode=eval", "--config.eval.weights=ema"))
    assert done.returncode == 0, done.stderr
    evaluation = tmp_path / "whole" / "eval" / "digit_scenes_val[:48]"
    assert json.loads((evaluation / "summary.json").read_text())["weights"] == "ema"
    with np.load(evaluation / "scores.npz") as arrays:
        np.testing.assert_array_equal(arrays["prediction"], arrays["ema/base"])
        assert np.abs(arrays["ema/base"] - arrays["student/base"]).max() > 0
