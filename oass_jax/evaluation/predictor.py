"""A finished run, opened to predict new images: what `oass_jax.load` returns."""

import collections
import concurrent.futures
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from oass_jax import config_file
from oass_jax.data.example import stack_examples
from oass_jax.data.image_file import read_header, read_shrunk
from oass_jax.errors import DivergedError, UserError
from oass_jax.evaluation import decision, predict
from oass_jax.evaluation.evaluator import create_predict_fn
from oass_jax.evaluation.precision_recall import probability
from oass_jax.evaluation.result import InputImage, Result, create_result
from oass_jax.image import augment
from oass_jax.run import build, libraries
from oass_jax.run.restore import Run, open_run
from oass_jax.run.state import networks
from oass_jax.run.workdir import Workdir


class Predictor:
    """Predicts images with the network of a run, as `--mode=eval` does: the numbers are the same.

    Attributes:
      workdir: of the run.
      class_names: in the order of the scores.
      decision: the threshold of each class, and where they come from.
      step: of the checkpoint.
      config: of the run; `eval` says which weights, logits, size, scales and flips are used.
      batch_size: images that are computed together.
    """

    def __init__(self, workdir: Path, run: Run, decided: decision.Decision, *, batch_size: int):
        """Compiles nothing yet.

        Args:
          workdir: of the run.
          run: as it was restored.
          decided: the thresholds.
          batch_size: images that are computed together, rounded up to a multiple of the devices.
        """
        self.class_names, self.step, self.config = run.class_names, run.step, run.config
        self.workdir, self.decision = workdir, decided
        self.batch_size = -(-batch_size // run.mesh.size) * run.mesh.size
        self._mesh, self._stride = run.mesh, run.network.encoder.stride
        weights = run.config.eval.weights
        self._weights = {weights: networks(run.model)[weights]}
        self._map_scale = predict.map_scale(run.config.eval.scales)
        self._predict_fn = create_predict_fn(
            run.config, run.network, run.mesh, map_scale=self._map_scale
        )

    def __call__(self, images: Any) -> Result | list[Result]:
        """Predicts an image or a list of them.

        Args:
          images: a path, the bytes of a file, an image of PIL's, an array uint8 `[H, W, 3]` (RGB)
            or `[H, W]` (gray); or a list or tuple of such. Many are better served by `stream`.

        Returns:
          The result; of a list a list in the same order.

        Raises:
          UserError: an image cannot be read.
          DivergedError: a prediction is not finite.
        """
        if isinstance(images, list | tuple):
            return list(self.stream(images))
        (result,) = self.stream([images])
        return result

    def stream(
        self, images: Iterable[Any], *, on_error: Callable[[UserError], None] | None = None
    ) -> Iterator[Result]:
        """Predicts any number of images in little memory; some are read ahead.

        Args:
          images: as for a call, one after the other.
          on_error: called for an image that cannot be read, which is then skipped; None raises.

        Yields:
          The result of each image, in order.

        Raises:
          UserError: an image cannot be read and there is no `on_error`.
          DivergedError: a prediction is not finite.
        """
        read = self._read_ahead(images, on_error)
        groups, ahead = itertools.tee(iter(lambda: [*itertools.islice(read, self.batch_size)], []))
        outputs = predict.one_behind(self._run, ahead)
        for group, (scores, *others) in zip(groups, outputs, strict=True):
            logits = predict.choose(scores, self.config.eval.logits)
            for seen, *output in zip(group, logits, *others, strict=False):  # without the padding
                yield self._result(seen, *output)

    def about(self) -> dict[str, Any]:
        """How predictions are made, as JSON takes it."""
        settings = ("weights", "logits", "image_px", "scales", "flip")
        thresholds = zip(self.class_names, self.decision.threshold.tolist(), strict=True)
        return {
            "thresholds": dict(thresholds),
            "thresholds_from": self.decision.source,
            "workdir": str(self.workdir),
            "step": self.step,
        } | {name: self.config.eval[name] for name in settings}

    def _read_ahead(
        self, images: Iterable[Any], on_error: Callable[[UserError], None] | None
    ) -> Iterator[InputImage]:
        num_threads = build.num_cores()
        pool = concurrent.futures.ThreadPoolExecutor(num_threads)
        waiting = collections.deque()
        numbered = enumerate(images, start=1)
        try:
            while True:
                room = num_threads + self.batch_size - len(waiting)
                for number, image in itertools.islice(numbered, room):
                    # PIL's images are not for several threads.
                    is_shared = isinstance(image, Image.Image)
                    submit_fn = _call if is_shared else pool.submit
                    waiting.append(submit_fn(self._read, image, number))
                if not waiting:
                    return
                try:
                    seen = waiting.popleft().result()
                except UserError as error:
                    if on_error is None:
                        raise
                    on_error(UserError(str(error)))  # whose frames do not hold the image
                    continue
                yield seen
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, image: Any, number: int) -> InputImage:
        name, source = _source(image, number)
        shrunk, size = read_shrunk(source, name=name, fit_px=self.config.eval.image_px)
        return InputImage(name, np.asarray(shrunk), size)

    def _run(
        self, group: Sequence[InputImage]
    ) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
        """Pads a batch and predicts it.

        Returns:
          Head -> logits `[B, C]`; class maps `[B, h, w, C]`; and height and width of the images in
          the pixels that a cell has `stride` of, `[B, 2]`.
        """
        images = [seen.image for seen in group]
        images += [np.zeros([0, 0, 3], np.uint8)] * (self.batch_size - len(images))
        examples = [{"image": x, "size": np.array(x.shape[:2], np.int32)} for x in images]
        batch = stack_examples(examples, canvas_px=self.config.eval.image_px)
        batch = build.to_device(batch, ("image", "size"), self._mesh)
        output = self._predict_fn(self._weights, batch)
        name = self.config.eval.weights
        on_canvas = augment.rescaled_size(batch["size"], self._map_scale)
        return output["scores"][name], output["maps"][name], on_canvas

    def _result(
        self, seen: InputImage, logits: np.ndarray, maps: np.ndarray, on_canvas: np.ndarray
    ) -> Result:
        if not np.isfinite(logits).all():
            raise DivergedError(
                f"what the network of step {self.step} predicts of {seen.name} is not finite"
            )
        return create_result(
            seen,
            probability(logits),
            maps,
            class_names=self.class_names,
            threshold=self.decision.threshold,
            size_cells=on_canvas / self._stride,
        )


def load(
    workdir: str | os.PathLike,
    *,
    threshold: str | float = decision.BEST_F1,
    batch_size: int | None = None,
) -> Predictor:
    """Opens a run, see `oass_jax.load`."""
    rule = decision.parse(threshold)
    if batch_size is not None and not (isinstance(batch_size, int) and batch_size > 0):
        raise UserError(f"batch_size={batch_size}: must be a whole number, at least 1")
    libraries.keep_compiled_programs()
    folder = Workdir(Path(os.path.expanduser(workdir)))
    class_names = folder.read_classes()
    config = config_file.from_json(folder.config)
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu:
        # Of resnet50 at 448 px bfloat16 takes 1.1 times as long.
        config.model.dtype = "float32"
    validation = folder.evaluation(config.eval.dataset, config.eval.split)
    decided = decision.decide(rule, folder, validation, class_names)
    if batch_size is None:
        batch_size = 1 if on_cpu else config.eval.batch_size
    with libraries.quiet():
        run = open_run(folder, config=config)
    if decided.step not in (None, run.step):
        raise UserError(
            f"{validation} was evaluated at step {decided.step}, and the run predicts with the "
            f"network of step {run.step}: evaluate with --mode=eval first"
        )
    return Predictor(folder.root, run, decided, batch_size=batch_size)


def _call(function: Callable, *args: Any) -> concurrent.futures.Future:
    """What a pool's `submit` returns, but called at once."""
    future = concurrent.futures.Future()
    try:
        future.set_result(function(*args))
    except UserError as error:
        future.set_exception(error)
    return future


def _source(image: Any, number: int) -> tuple[str, bytes | Image.Image]:
    """Name and content of what a user calls an image."""
    if isinstance(image, str | os.PathLike):
        path = Path(os.path.expanduser(image))
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
                raise UserError(f"{image} is no file")
            with path.open("rb") as file:
                read_header(file, name=str(image))  # before gigabytes of something else are read
                file.seek(0)
                return str(image), file.read()
        except (OSError, ValueError) as error:  # the latter of a path that cannot be one
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{image} cannot be read: {reason}") from error
    name = f"image {number}"
    if isinstance(image, bytes):
        return name, image
    if isinstance(image, Image.Image):
        return getattr(image, "filename", "") or name, image
    array = np.asarray(image)
    is_rgb = array.ndim == 3 and array.shape[-1] == 3
    if array.dtype != np.uint8 or not array.size or not (is_rgb or array.ndim == 2):
        raise UserError(
            f"{name} is {array.dtype} {list(array.shape)} of {type(image).__name__}: an image is a "
            "path, the bytes of a file, an image of PIL's, or an array uint8 [H, W, 3] or [H, W]"
        )
    return name, Image.fromarray(array)
