import jax.numpy as jnp
import numpy as np

from oass_jax.evaluation import evaluate


def test_predict_drops_the_padding_and_restores_the_order():
    def predict_fn(batch):
        return {"scores": {"student": batch["x"], "ema": -batch["x"]}} | {
            name: batch[name] for name in ("label", "mask", "index")
        }

    def batch(index, mask):
        index = jnp.array(index)
        column = index[:, None].astype(jnp.float32)
        label = (column > 1).astype(jnp.int8)
        return {"x": column, "label": label, "mask": jnp.array(mask), "index": index}

    batches = [
        batch([2, 0], [True, True]),
        batch([3, 1], [True, True]),
        batch([4, -1], [True, False]),
    ]
    rows = evaluate.predict(predict_fn, iter(batches))
    np.testing.assert_array_equal(rows.index, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(rows.scores["student"][:, 0], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(rows.scores["ema"][:, 0], [0, -1, -2, -3, -4])
    np.testing.assert_array_equal(rows.label[:, 0], [0, 0, 1, 1, 1])
