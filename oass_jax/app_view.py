"""What the app shows of an image; nothing here knows gradio."""

import html
from typing import NamedTuple

import numpy as np
from PIL import Image

from oass_jax.data.image_file import shrink
from oass_jax.evaluation import keypoint_marks, labelled_image, overlay, panels
from oass_jax.evaluation.keypoint_marks import Marks
from oass_jax.evaluation.predictor import Predictor
from oass_jax.evaluation.result import Result
from oass_jax.run import build

IMAGE_PX = 800  # long side of the image that is shown

# A bar for each class; the threshold is a line across it.
_BARS = '<div style="max-height: 30em; overflow-y: auto">{}</div>'
_BAR = """
<div class="bar {kind}" style="display: grid; grid-template-columns: 9em 1fr 3em; gap: .6em;
  align-items: center; font-weight: {weight}">
  <span class="name" title="{name}" style="overflow: hidden; text-overflow: ellipsis;
    white-space: nowrap">{name}</span>
  <span style="position: relative; height: .9em; background: rgb(128 128 128 / .2)">
    <span style="position: absolute; height: 100%; width: {percent:.1f}%;
      background: {colour}"></span>
    <span style="position: absolute; height: 100%; left: {threshold:.1f}%;
      border-left: 2px solid currentColor"></span>
  </span>
  <span class="number" style="font-variant-numeric: tabular-nums">{probability:.2f}</span>
</div>"""
_LABEL = {"kind": "label", "weight": 600, "colour": "#0072B2"}
_NO_LABEL = {"kind": "", "weight": 400, "colour": "#999999"}


class PredictedImage(NamedTuple):
    """An image that was predicted.

    Attributes:
      image: upright, RGB, in the size that is shown.
      result: what was predicted of the image in its own size.
    """

    image: Image.Image
    result: Result


class View:
    """What is to be seen of images that a run predicts; only `predict` runs its network."""

    def __init__(self, model: Predictor):
        """Takes the opened run."""
        self._model = model

    def predict(self, path: str) -> PredictedImage:
        """Predicts an image file.

        Raises:
          UserError: it cannot be read.
          DivergedError: the prediction is not finite.
        """
        known = labelled_image.read_file(path)
        shown = overlay.enlarge(shrink(known.image, IMAGE_PX))
        return PredictedImage(shown, self._model(known.data))

    def classes(self, seen: PredictedImage) -> list[str]:
        """All classes, most probable first."""
        probability = seen.result.probability
        return sorted(probability, key=probability.get, reverse=True)

    def labels(self, seen: PredictedImage, threshold: float | None) -> list[str]:
        """The classes that are predicted, most probable first.

        Args:
          seen: the image.
          threshold: of every class; None for those of the run.
        """
        limits = self._thresholds(threshold)
        probability = seen.result.probability
        return [name for name in self.classes(seen) if probability[name] >= limits[name]]

    def bars(self, seen: PredictedImage, threshold: float | None) -> str:
        """The probabilities as HTML, the highest first; labels are set off.

        Args:
          seen: the image.
          threshold: as for `labels`.
        """
        limits, labels = self._thresholds(threshold), self.labels(seen, threshold)
        return _BARS.format(
            "".join(
                _BAR.format(
                    name=html.escape(name),
                    probability=seen.result.probability[name],
                    percent=100 * seen.result.probability[name],
                    threshold=100 * limits[name],
                    **(_LABEL if name in labels else _NO_LABEL),
                )
                for name in self.classes(seen)
            )
        )

    def drawing(
        self, seen: PredictedImage, class_name: str, threshold: float | None, *, with_cut: bool
    ) -> tuple[Image.Image, str]:
        """The class map of a class over the image, and where the run would cut that.

        Args:
          seen: the image.
          class_name: whose map is drawn.
          threshold: as for `labels`; a strategy with one keypoint for the image merges their maps.
          with_cut: draw keypoint and cut, too.

        Returns:
          RGB, and a sentence on the cut, empty without `with_cut`.
        """
        size = (seen.image.height, seen.image.width)
        drawn = overlay.blend(
            seen.image,
            seen.result.class_map(class_name, size),
            probability=seen.result.probability[class_name],
        )
        if not with_cut:
            return drawn, ""
        marks, text = self._cut(seen, class_name, threshold)
        if marks is not None:
            scale = np.divide(size, seen.result.size)
            keypoint_yx, cut_yx = (
                tuple((scale * point).tolist()) for point in (marks.keypoint_yx, marks.cut_yx)
            )
            panels.draw_cut(drawn, cut_yx)
            overlay.mark(drawn, keypoint_yx)
        return drawn, text

    def _thresholds(self, threshold: float | None) -> dict[str, float]:
        values = self._model.decision.threshold.tolist()
        if threshold is not None:
            values = [threshold] * len(values)
        return dict(zip(self._model.class_names, values, strict=True))

    def _cut(
        self, seen: PredictedImage, class_name: str, threshold: float | None
    ) -> tuple[Marks | None, str]:
        config = self._model.config
        strategy = config.keypoint.strategy
        if not build.has_patches(config):
            return None, "This run is trained without patches: it cuts no image."
        if strategy == keypoint_marks.WITH_BOXES:
            return None, f"{strategy} cuts at boxes, which are not known of a new image."
        labels = [class_name]
        if not keypoint_marks.is_channel_wise(strategy):
            labels = self.labels(seen, threshold) or labels
        found = keypoint_marks.find_marks(seen.result, strategy, labels, config.keypoint)
        if not found:
            return None, "The image is too small to be cut."
        y, x = found[0].cut_yx
        return found[0], f"{strategy} of {', '.join(labels)} cuts at x = {x:.0f}, y = {y:.0f} px."
