"""Evaluates a state during training and on its own, and writes what it found."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from oass_jax.data import pipeline
from oass_jax.errors import UserError
from oass_jax.evaluation import average_precision, predict, score_files
from oass_jax.model.network import Network
from oass_jax.run import build
from oass_jax.run.state import TrainState


class Evaluator:
    """Evaluates a state on the split `config.eval` names, and writes what it found."""

    def __init__(
        self,
        config: ConfigDict,
        folder: Path,
        network: Network,
        mesh: Mesh,
        class_names: tuple[str, ...],
    ):
        """Opens the split, which is then `split`.

        Raises:
          UserError: no such split, or it has other classes.
        """
        self._config, self._folder, self._mesh = config, folder, mesh
        self.split = open_split(config, config.eval.split, class_names)
        self._predict_fn = create_predict_fn(config, network, mesh)

    def __call__(self, state: TrainState, step: int) -> dict[str, float]:
        """Predicts the split with the student and, where there is one, the EMA encoder.

        Args:
          state: of the run.
          step: its step.

        Returns:
          `val/map`, `val/map_voc`, `val/ap/CLASS` of the weights `eval.weights` names and
          `val/map_student` or `val/map_ema` of the others, percent; NaN without positives.
        """
        config = self._config.eval
        predict_fn = functools.partial(self._predict_fn, weights_of(state))
        batches = read_batches(self._config, self.split)
        on_device = (build.to_device(batch, pipeline.EVAL_FIELDS, self._mesh) for batch in batches)
        predictions = predict.predict(predict_fn, on_device)
        chosen = {
            name: predict.choose(scores, config.logits)
            for name, scores in predictions.scores.items()
        }
        by_weights = {
            name: average_precision.mean_average_precision(scores, predictions.label)
            for name, scores in chosen.items()
        }
        result = by_weights.pop(config.weights)
        class_names = self.split.class_names
        score_files.write_evaluation(
            self._folder,
            dataset=config.dataset,
            split=config.split,
            class_names=class_names,
            filenames=[self.split.filename(i) for i in predictions.index],
            label=predictions.label,
            prediction=chosen[config.weights],
            scores={
                f"{name}/{kind}": logits
                for name, kinds in predictions.scores.items()
                for kind, logits in kinds.items()
            },
            result=result,
            competition=config.competition,
            challenge=self.split.challenge,
            about={
                "step": step,
                "weights": config.weights,
                "difficult": config.difficult,
                "logits": config.logits,
            },
        )
        metrics = {"val/map": result.map, "val/map_voc": result.map_voc}
        metrics |= {f"val/map_{name}": other.map for name, other in by_weights.items()}
        return metrics | {
            f"val/ap/{name}": float(ap) for name, ap in zip(class_names, result.ap, strict=True)
        }


def open_split(config: ConfigDict, name: str, class_names: tuple[str, ...]) -> pipeline.Split:
    """Opens a split of the data set that is evaluated.

    Args:
      config: `eval.dataset` and `data` are read.
      name: of the split.
      class_names: those the network was made for.

    Raises:
      UserError: no such split, or it has other classes.
    """
    split = build.open_split(config, config.eval.dataset, name)
    if split.class_names != class_names:
        raise UserError(
            f"{config.eval.dataset} has the classes {', '.join(split.class_names)}; "
            f"the network was made for {', '.join(class_names)}: set eval.dataset"
        )
    return split


def read_batches(config: ConfigDict, split: pipeline.Split) -> Iterator[dict[str, np.ndarray]]:
    """This process's part of one pass over a split, batched as `config.eval` says."""
    return pipeline.eval_batches(
        split,
        build.eval_read_options(config),
        batch_size=config.eval.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def weights_of(state: TrainState) -> dict[str, Any]:
    """The networks a state holds: the student, and its head on the EMA encoder."""
    weights = {"student": {"params": state.params, "batch_stats": state.batch_stats}}
    if state.teacher:
        encoder = {name: {"encoder": tree} for name, tree in state.teacher.items()}
        weights["ema"] = encoder | {"params": state.params | encoder["params"]}
    return weights


def create_predict_fn(
    config: ConfigDict, network: Network, mesh: Mesh
) -> Callable[[dict, build.Batch], dict[str, Any]]:
    """Compiles `predict.predict_step` for a mesh; every device gets every result.

    Args:
      config: `eval.scales`, `eval.flip` and `regions` are read.
      network: encoder and classifiers.
      mesh: one axis, `data`.
    """
    predict_fn = functools.partial(
        predict.predict_step,
        network=network,
        regions=build.create_regions(config),
        scales=config.eval.scales,
        flip=config.eval.flip,
    )
    return jax.jit(
        predict_fn,
        in_shardings=(build.replicated(mesh), build.batch_sharding(mesh)),
        out_shardings=build.replicated(mesh),
    )
