"""Measures the class maps of a model against masks and boxes, and exports them."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from oass_jax.data import pipeline
from oass_jax.data.progress import report_progress
from oass_jax.data.segmentation_mask import Masks
from oass_jax.errors import UserError
from oass_jax.evaluation import cam, cam_files, cam_iou, evaluator, pointing_game
from oass_jax.model.network import Network
from oass_jax.run import build
from oass_jax.run.state import networks
from oass_jax.run.workdir import Workdir

_FIELDS = (*pipeline.EVAL_FIELDS, "map_size")


class CamEvaluator:
    """Measures the class maps of a model on the split that `config.cam` names.

    The maps have the size of the image's mask, or of the image where it has none. Where only their
    peaks are looked at they are no larger than the canvas of the evaluation.
    """

    def __init__(
        self,
        config: ConfigDict,
        folder: Workdir,
        split: pipeline.Split,
        network: Network,
        mesh: Mesh,
    ):
        """Reads the headers of the files of the split.

        Raises:
          UserError: it has neither masks nor boxes and there is nothing to export, or two images
            whose maps would be one file; or the batch cannot be split evenly.
        """
        build.require_even(mesh, "eval.batch_size", config.eval.batch_size)
        self._config, self._folder, self._split, self._mesh = config, folder, split, mesh
        self._masks = Masks(self._split)
        self._size = self._masks.size
        if not config.cam.export:
            scale = np.minimum(1, config.eval.image_px / self._size.max(axis=1, keepdims=True))
            shrunk = np.maximum(1, np.rint(self._size * scale)).astype(np.int32)
            self._size = np.where(self._masks.present[:, None], self._size, shrunk)
        has_boxes = self._split.has_boxes and self._masks.max_labels > 0
        if not (self._masks.present.any() or has_boxes or config.cam.export):
            raise UserError(
                f"{config.eval.dataset} {config.cam.split} has neither segmentation masks nor "
                f"boxes: choose another cam.split, or cam.export=True to write the maps alone"
            )
        self._map_names = cam_files.map_names(split.filenames) if config.cam.export else []
        self._step_fn = jax.jit(
            functools.partial(
                cam.class_map_step,
                network=network,
                scales=config.cam.scales,
                flip=config.cam.flip,
                num_slots=max(1, self._masks.max_labels),
                out_px=int(self._size.max()),
            ),
            in_shardings=(build.replicated(mesh), build.batch_sharding(mesh)),
            out_shardings=build.replicated(mesh),
        )

    def __call__(
        self,
        model: dict[str, Any],
        step: int,
        *,
        stops_fn: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Writes `cams/DATASET_SPLIT/`: the metrics and, where `cam.export` asks, every map.

        Args:
          model: `TrainState.model`.
          step: its step.
          stops_fn: asked before each batch, by every process, whether to leave.

        Returns:
          What `summary.json` holds.

        Raises:
          UserError: an image or a mask is damaged.
          EvaluationStoppedError: `stops_fn` said so.
        """
        config, class_names = self._config, self._split.class_names
        target = self._folder.cams(self._split.name, config.cam.split)
        thresholds = cam_iou.even_thresholds(config.cam.num_thresholds)
        side = len(class_names) + 1
        counts = np.zeros((side, side, len(thresholds) + 1), np.int64)
        pointing = np.zeros((len(class_names), 2), np.int64)
        for index, classes, maps in self._maps(model, stops_fn):
            if config.cam.export:
                name = self._map_names[index]
                cam_files.write_maps(self._folder, target, name, classes, maps)
            if self._masks.present[index]:
                counts += cam_iou.count_pixels(
                    maps,
                    classes,
                    self._masks.read(index),
                    thresholds=thresholds,
                    num_classes=len(class_names),
                )
            if self._split.has_boxes:
                pointing += self._count_hits(index, classes, maps)
        about = {
            "dataset": self._split.name,
            "split": config.cam.split,
            "num_images": len(self._split),
            "without_mask": int((~self._masks.present).sum()),
            "step": step,
            "checkpoint": config.eval.checkpoint,
            "weights": config.eval.weights,
            "difficult": config.eval.difficult,
            "image_px": config.eval.image_px,
            "scales": config.cam.scales,
            "flip": config.cam.flip,
        } | evaluator.about_list(config, self._split)
        result = cam_iou.score(counts, thresholds)
        return cam_files.write_result(
            self._folder,
            target,
            class_names=class_names,
            result=result,
            pointing=pointing_game.accuracy(pointing),
            about=about,
        )

    def _count_hits(self, index: int, classes: np.ndarray, maps: np.ndarray) -> np.ndarray:
        record = self._split.source[index]
        return pointing_game.count_hits(
            maps,
            classes,
            self._split.boxes(record),
            np.array(record["objects"]["label"], int),
            num_classes=len(self._split.class_names),
        )

    def _maps(self, model: dict[str, Any], stops_fn: Callable[[], bool]) -> Iterator[cam.ClassMaps]:
        """The maps of every image, with a line of progress now and then."""
        variables = networks(model)[self._config.eval.weights]
        batches = (
            build.to_device(batch | {"map_size": self._size[batch["index"]]}, _FIELDS, self._mesh)
            for batch in evaluator.read_batches(self._config, self._split, stops_fn)
        )
        maps = cam.image_maps(functools.partial(self._step_fn, variables), batches)
        if not self._folder.writes:
            return maps
        return report_progress(maps, what="class maps", total=len(self._split), on_terminal=True)
