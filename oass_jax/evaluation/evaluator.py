"""Evaluates a model on the split that the config names."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from oass_jax.data import pipeline, sources
from oass_jax.errors import DivergedError, EvaluationStoppedError, UserError
from oass_jax.evaluation import average_precision, predict, score_files, thresholds
from oass_jax.evaluation.average_precision import MeanAveragePrecision
from oass_jax.evaluation.predict import Predictions
from oass_jax.evaluation.score_files import Evaluation
from oass_jax.evaluation.thresholds import Thresholds
from oass_jax.model.network import Network
from oass_jax.run import build, workdir
from oass_jax.run.build import Batch
from oass_jax.run.console import Console
from oass_jax.run.files import read_json
from oass_jax.run.state import networks
from oass_jax.run.workdir import Workdir


class Evaluator:
    """Evaluates a model on the split that `config.eval` names.

    Thresholds are chosen on the validation split of the run, the one in its `config.json`. Any
    other split is measured at those in the workdir.
    """

    def __init__(
        self,
        config: ConfigDict,
        folder: Workdir,
        split: pipeline.Split,
        network: Network,
        mesh: Mesh,
        console: Console,
    ):
        """Compiles nothing yet.

        Raises:
          UserError: the batch cannot be split evenly.
        """
        build.require_even(mesh, "eval.batch_size", config.eval.batch_size)
        self._config, self._folder, self._mesh, self._console = config, folder, mesh, console
        self.split = split
        self._predict_fn = create_predict_fn(config, network, mesh)

    def __call__(
        self,
        model: dict[str, Any],
        step: int,
        *,
        checkpoint: str = "last",
        stops_fn: Callable[[], bool] = lambda: False,
    ) -> tuple[Evaluation, dict[str, float]]:
        """Predicts the split with the student and, where there is one, the EMA encoder.

        Args:
          model: `TrainState.model`.
          step: its step.
          checkpoint: which one it is, 'best' or 'last'.
          stops_fn: asked before each batch, by every process, whether to leave.

        Returns:
          The evaluation with the weights that `eval.weights` names; and for the training's log
          `val/map`, `val/map_voc`, `val/ap/CLASS` of these and `val/map_student` or `val/map_ema`
          of the others, percent; NaN without positives.

        Raises:
          DivergedError: a logit is not finite.
          EvaluationStoppedError: `stops_fn` said so.
        """
        config = self._config.eval
        predictions = self._predict(model, stops_fn)
        chosen = {
            name: predict.choose(scores, config.logits)
            for name, scores in predictions.scores.items()
        }
        if not all(np.isfinite(scores).all() for scores in chosen.values()):
            raise DivergedError(f"what the network of step {step} predicts is not finite")
        by_weights = {
            name: average_precision.mean_average_precision(scores, predictions.label)
            for name, scores in chosen.items()
        }
        result = by_weights.pop(config.weights)
        evaluation = self._evaluation(predictions, chosen[config.weights], result, step, checkpoint)
        metrics = {"val/map": result.map, "val/map_voc": result.map_voc}
        metrics |= {f"val/map_{name}": other.map for name, other in by_weights.items()}
        aps = zip(self.split.class_names, result.ap, strict=True)
        return evaluation, metrics | {f"val/ap/{name}": float(ap) for name, ap in aps}

    def _predict(self, model: dict[str, Any], stops_fn: Callable[[], bool]) -> Predictions:
        """One pass over the split, with every network of the model."""
        predict_fn = functools.partial(self._predict_fn, networks(model))
        batches = read_batches(self._config, self.split, stops_fn)
        on_device = (build.to_device(batch, pipeline.EVAL_FIELDS, self._mesh) for batch in batches)
        shown = self._console.track(
            on_device,
            activity="evaluating",
            num_images=len(self.split),
            batch_size=self._config.eval.batch_size,
        )
        return predict.predict(predict_fn, shown)

    def _evaluation(
        self,
        predictions: Predictions,
        prediction: np.ndarray,
        result: MeanAveragePrecision,
        step: int,
        checkpoint: str,
    ) -> Evaluation:
        """What there is to write of the `[N, C]` logits that count, `prediction`."""
        config, class_names = self._config.eval, self.split.class_names
        class_thresholds, thresholds_of = self._thresholds(prediction, predictions.label, step)
        summary = score_files.summarize(
            class_names,
            prediction,
            predictions.label,
            result,
            threshold=None if class_thresholds is None else class_thresholds.probability,
            thresholds_of=thresholds_of,
        )
        about = {
            "dataset": self.split.name,
            "split": config.split,
            "step": step,
            "checkpoint": checkpoint,
            "command": workdir.command(),
        } | about_list(self._config, self.split)
        return Evaluation(
            dataset=self.split.name,
            split=config.split,
            challenge=self.split.challenge,
            competition=config.competition,
            class_names=class_names,
            filenames=[self.split.filenames[i] for i in predictions.index],
            label=predictions.label,
            prediction=prediction,
            scores={
                f"{name}/{head}": logits
                for name, heads in predictions.scores.items()
                for head, logits in heads.items()
            },
            result=result,
            thresholds=class_thresholds,
            thresholds_of=thresholds_of,
            keeps_thresholds=thresholds_of is None and self._predicts_as_the_run(),
            summary=summary | about | {name: config[name] for name in workdir.SETTINGS},
        )

    def _predicts_as_the_run(self) -> bool:
        """Whether nothing is set otherwise than where the thresholds of the run will be used."""
        fields = self._folder.fields()
        names = (*workdir.SETTINGS, "checkpoint")
        own = {f"eval.{name}": self._config.eval[name] for name in names}
        as_json = json.loads(json.dumps(own))  # tuples are lists there
        return all(fields.get(name) == value for name, value in as_json.items())

    def _thresholds(
        self, prediction: np.ndarray, label: np.ndarray, step: int
    ) -> tuple[Thresholds | None, str | None]:
        """Chosen on this split, and None; or those in the workdir, and where they were chosen."""
        config = self._config.eval
        if (self.split.name, config.split) != self._folder.validation():
            stored = thresholds.read(self._folder, self.split.class_names)
            return stored, None if stored is None else stored.source
        if not (label == 1).any():
            return None, None
        source = (
            f"{self.split.name} {config.split}, {len(label)} images, step {step}, "
            f"{config.weights} weights"
        )
        return thresholds.best_f1(prediction, label, source=source), None


def about_list(config: ConfigDict, split: pipeline.Split) -> dict[str, str]:
    """Of an evaluated list, what its summary says of it; nothing for other data sets."""
    if config.eval.dataset not in sources.WITH_PATH:
        return {}
    places = {name: config.data[name] for name in ("path", "image_dir")}
    return places | {"sources": pipeline.sources_checksum(split)}


def open_split(
    config: ConfigDict, folder: Workdir, name: str, class_names: tuple[str, ...]
) -> pipeline.Split:
    """Opens a split of the data set that a finished run is evaluated on.

    Args:
      config: `eval.dataset` and `data` are read.
      folder: the workdir.
      name: of the split.
      class_names: those the network was made for.

    Returns:
      The split; where it is of another list than the run's, that list is in its name.

    Raises:
      UserError: no such split, or it has other classes; or another list of the same name was
        evaluated before.
    """
    split = build.open_split(config, folder, config.eval.dataset, name, class_names=class_names)
    if config.eval.dataset not in sources.WITH_PATH:
        return split
    trained_path = folder.fields().get("data.path", config.data.path)
    path, trained = (Path(each).expanduser().resolve() for each in (config.data.path, trained_path))
    evaluated = read_json(folder.evaluation(split.name, name) / workdir.SUMMARY)
    if path == trained or evaluated.get("sources") == pipeline.sources_checksum(split):
        return split  # the run's own, perhaps in another place
    named = f"{split.name}/{path.parent.name}/{path.stem}"
    for target in (folder.evaluation(named, name), folder.cams(named, name)):
        other = read_json(target / workdir.SUMMARY).get("path", str(path))
        if Path(other).resolve() != path:
            raise UserError(
                f"{target} is of another list of that name, {other}: rename or remove that folder, "
                f"or rename the folder of {path}"
            )
    return dataclasses.replace(split, name=named)


def read_batches(
    config: ConfigDict, split: pipeline.Split, stops_fn: Callable[[], bool]
) -> Iterator[dict[str, np.ndarray]]:
    """This process's part of one pass over a split, batched as `config.eval` says.

    Args:
      config: `data` and `eval` are read.
      split: where from.
      stops_fn: asked before each batch whether to leave.

    Raises:
      EvaluationStoppedError: `stops_fn` said so.
    """
    batches = pipeline.eval_batches(
        split,
        build.eval_read_options(config),
        batch_size=config.eval.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    for batch in batches:
        if stops_fn():
            raise EvaluationStoppedError
        yield batch


def create_predict_fn(
    config: ConfigDict, network: Network, mesh: Mesh, *, map_scale: float | None = None
) -> Callable[[dict, Batch], dict[str, Any]]:
    """Compiles `predict.predict_step` for a mesh; every device gets every result.

    Args:
      config: `eval.scales`, `eval.flip` and `regions` are read.
      network: encoder and classifiers.
      mesh: one axis, `data`.
      map_scale: as in `predict_step`.
    """
    predict_fn = functools.partial(
        predict.predict_step,
        network=network,
        regions=build.create_regions(config),
        scales=config.eval.scales,
        flip=config.eval.flip,
        map_scale=map_scale,
    )
    return jax.jit(
        predict_fn,
        in_shardings=(build.replicated(mesh), build.batch_sharding(mesh)),
        out_shardings=build.replicated(mesh),
    )
