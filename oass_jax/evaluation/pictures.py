"""Pictures of a sample of the evaluated split: where the network looks, what the method does."""

import functools
import io
import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from PIL import Image

from oass_jax.data.example import ExampleReader, Split, stack_examples
from oass_jax.evaluation import keypoints, overlay, panels, predict
from oass_jax.evaluation.keypoints import Cut
from oass_jax.evaluation.precision_recall import probability
from oass_jax.evaluation.result import InputImage, Result, create_result
from oass_jax.evaluation.score_files import Evaluation
from oass_jax.image import augment
from oass_jax.method import keypoint
from oass_jax.model.network import Network
from oass_jax.run import build, workdir
from oass_jax.run.files import safe_name
from oass_jax.run.state import networks
from oass_jax.run.workdir import Workdir

# Label, and whether it is predicted -> what to call that; the most important first.
_FINDINGS = {
    (1, True): "true",
    (1, False): "missed",
    (0, True): "false",
    (-1, True): "predicted",  # whether it is right is not known
}
_MAX_MAPS = 6
_JPEG_QUALITY = 90
_NAME_LENGTH = 60  # letters of an image's name in a file name, which systems keep short

Example = dict[str, np.ndarray]


class Picture(NamedTuple):
    """What is drawn of an image.

    Attributes:
      name: number in the sample and name of the image, as a file name without suffix.
      filename: of the image in its split.
      labels: classes that are present, most probable first.
      predicted: classes that are predicted, likewise.
      size: width and height in pixels.
      jpeg: the file.
    """

    name: str
    filename: str
    labels: list[str]
    predicted: list[str]
    size: tuple[int, int]
    jpeg: bytes


class Pictures:
    """Draws `eval.num_pictures` images of the evaluated split, the same ones every time."""

    def __init__(
        self, config: ConfigDict, folder: Workdir, network: Network, mesh: Mesh, split: Split
    ):
        """Reads and compiles nothing yet.

        Args:
          config: `eval`, `data`, `keypoint`, `teacher` and `loss` are read.
          folder: the workdir; the process that writes there draws.
          network: encoder and classifiers.
          mesh: one axis, `data`.
          split: that is evaluated.
        """
        self._config, self._folder, self._split = config, folder, split
        self._scale, self._stride = predict.map_scale(config.eval.scales), network.encoder.stride
        self._read_fn = ExampleReader(split, build.eval_read_options(config))
        self._has_patches = build.has_patches(config)
        self._strategy = keypoint.bind(config.keypoint.strategy, config.keypoint)
        # Every device computes the same image, so that no map has to be gathered.
        self._replicated = build.replicated(mesh)
        self._maps_fn = jax.jit(
            functools.partial(_class_maps, network=network, scale=self._scale),
            in_shardings=self._replicated,
            out_shardings=self._replicated,
        )

    def __call__(self, model: dict[str, Any], evaluation: Evaluation) -> list[Picture]:
        """Draws the sample and writes it to the folder of the evaluation.

        Args:
          model: `TrainState.model`.
          evaluation: of this model; the pictures have its predictions and thresholds.

        Returns:
          The pictures; none in a process that does not write, which has to call this as well.
        """
        variables, drawn = networks(model)[self._config.eval.weights], []
        has_labels = (evaluation.label == 1).any()
        indices = sample(len(self._split), self._config.eval.num_pictures)
        for number, index in enumerate(indices, start=1):
            example = self._read_fn(index)
            maps = self._maps(variables, example)
            if self._folder.writes:
                label = example["label"] if has_labels else None
                result = self._result(example, maps, evaluation)
                drawn.append(self._draw(number, example, label, result))
        _write(self._folder, evaluation, drawn)
        return drawn

    def _maps(self, variables: dict[str, Any], example: Example) -> np.ndarray:
        """The class maps of an image, `[h, w, C]`; of one at a time, which takes little memory."""
        batch = stack_examples([example], canvas_px=self._config.eval.image_px)
        on_devices = {
            name: jax.make_array_from_process_local_data(self._replicated, batch[name])
            for name in ("image", "size")
        }
        return jax.device_get(self._maps_fn(variables, on_devices))[0]

    def _result(self, example: Example, maps: np.ndarray, evaluation: Evaluation) -> Result:
        """The prediction that was evaluated, of an image enlarged or shrunk to be looked at."""
        index, thresholds = int(example["index"]), evaluation.thresholds
        image = overlay.fit(Image.fromarray(example["image"]))
        size = tuple(example["size"].tolist())
        seen = InputImage(evaluation.filenames[index], np.asarray(image), size)
        num_classes = len(evaluation.class_names)
        on_canvas = np.asarray(augment.rescaled_size(example["size"], self._scale))
        return create_result(
            seen,
            probability(evaluation.prediction[index]),
            maps,
            class_names=evaluation.class_names,
            threshold=np.full(num_classes, 0.5) if thresholds is None else thresholds.probability,
            size_cells=on_canvas / self._stride,
        )

    def _draw(
        self, number: int, example: Example, label: np.ndarray | None, result: Result
    ) -> Picture:
        classes = findings(result, label)
        maps = [result.overlay(name, finding=word) for name, word in classes[:_MAX_MAPS]]
        if names := [name for name, _ in classes[_MAX_MAPS:]]:
            blank = Image.fromarray(np.zeros_like(result.image))
            maps.append(overlay.add_title(blank, f"not shown: {', '.join(names)}"))
        labels = [name for name, word in classes if word in ("true", "missed")]
        labels = sorted(labels, key=result.probability.get, reverse=True)
        # Where there are no labels, what is predicted stands for them.
        cut = self._cut(example, result, result.labels if label is None else labels)
        image = panels.side_by_side([*self._method_panels(example, result, cut), *maps])
        file = io.BytesIO()
        image.save(file, "JPEG", quality=_JPEG_QUALITY)
        stem = safe_name(PurePosixPath(result.name).stem)
        return Picture(
            name=f"{number:02d}_{stem[-_NAME_LENGTH:]}",
            filename=result.name,
            labels=labels,
            predicted=list(result.labels),
            size=image.size,
            jpeg=file.getvalue(),
        )

    def _cut(self, example: Example, result: Result, labels: Sequence[str]) -> Cut | None:
        """Where the method would cut an image; with a keypoint for each class, for the first one.

        Args:
          example: the image.
          result: what is predicted of it.
          labels: its classes, most probable first.
        """
        if not self._has_patches:
            return None
        if self._strategy.channel_wise:
            labels = labels[:1]
        cuts = keypoints.find_cuts(
            result.maps.transpose(1, 2, 0),
            np.divide(result.size, result.cell_px),
            np.isin(self._split.class_names, labels).astype(int),
            strategy=self._strategy,
            margin_cells=self._config.keypoint.margin_cells,
            boxes=example["boxes"],
            box_label=example["box_label"],
            seed=int(example["index"]),
        )
        return cuts[0] if cuts else None

    def _method_panels(
        self, example: Example, result: Result, cut: Cut | None
    ) -> list[Image.Image]:
        """The image with its boxes and where it is cut, and its patches."""
        shown = Image.fromarray(result.image)
        is_used = (example["box_label"] >= 0) & self._split.has_boxes
        boxes = example["boxes"][is_used]
        if cut is None:
            title = "image" + ": not cut" * self._has_patches
            return [panels.draw_image(shown, title, boxes=boxes)]
        of_class = (
            "" if cut.class_index is None else f" of {self._split.class_names[cut.class_index]}"
        )
        cut_px = np.rint(np.multiply(cut.cut_yx, result.cell_px)).astype(int)
        shown_px = np.divide((shown.height, shown.width), result.size)
        whole = panels.draw_image(
            shown,
            f"{self._config.keypoint.strategy} keypoint{of_class}",
            boxes=boxes,
            keypoint_yx=cut.keypoint_yx * np.array(result.cell_px) * shown_px,
            cut_yx=cut_px * shown_px,
        )
        patches = panels.cut(
            Image.fromarray(example["image"]),
            cut_px,
            resize=self._config.teacher.resize_patches,
        )
        return [whole, panels.draw_patches(patches, "its patches", size=shown.size)]


def sample(num_images: int, count: int) -> list[int]:
    """Images spread evenly over a split: the one in the middle of each of `count` equal parts.

    Args:
      num_images: of the split.
      count: of the sample, if there are so many.
    """
    count = min(count, num_images)
    return [(2 * part + 1) * num_images // (2 * count) for part in range(count)]


def findings(result: Result, label: np.ndarray | None) -> list[tuple[str, str]]:
    """The classes whose maps are worth a look: those that are present or predicted.

    Args:
      result: what is predicted.
      label: `[C]`, 1, 0 or -1 (ignored); None where nothing is known.

    Returns:
      Class and one of the words of `_FINDINGS`, in their order; within a word the most probable
      class first.
    """
    known = np.full(len(result.probability), -1) if label is None else label
    label_of = dict(zip(result.probability, known.tolist(), strict=True))
    by_probability = sorted(result.probability, key=result.probability.get, reverse=True)
    return [
        (name, word)
        for case, word in _FINDINGS.items()
        for name in by_probability
        if (label_of[name], name in result.labels) == case
    ]


def _write(folder: Workdir, evaluation: Evaluation, pictures: Sequence[Picture]) -> None:
    """Writes the pictures and their index, in place of those of an earlier evaluation."""
    files = {f"{picture.name}.jpg": picture.jpeg for picture in pictures}
    index = [
        {
            "file": file,
            "image": picture.filename,
            "labels": picture.labels,
            "predicted": picture.predicted,
            "width": picture.size[0],
            "height": picture.size[1],
        }
        for file, picture in zip(files, pictures, strict=True)
    ]
    if index:
        files[workdir.PICTURES_INDEX] = (json.dumps(index, indent=2) + "\n").encode()
    target = folder.evaluation(evaluation.dataset, evaluation.split)
    folder.replace_files(target / workdir.PICTURES, files)


def _class_maps(
    variables: dict[str, Any], batch: build.Batch, *, network: Network, scale: float
) -> jax.Array:
    """Raw class maps `[B, h, w, C]` of images at one scale."""
    images = augment.rescale_images(
        batch["image"],
        batch["size"],
        scale=scale,
        flip=False,
        multiple=2 * network.encoder.stride,
    )
    return network.apply(variables, images, train=False)["cam"]
