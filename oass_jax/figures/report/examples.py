"""Which images a report shows: of a class, of labels to check, of two runs that disagree."""

from dataclasses import dataclass

import numpy as np
import scipy.special

from oass_jax.evaluation.precision_recall import probability
from oass_jax.figures.source import Source

PER_GROUP = 4
NUM_CHECKED = 40
NUM_DISAGREEING = 12


@dataclass(frozen=True)
class Example:
    """What the network says of a class in an image.

    Attributes:
      image: number of the image.
      class_index: of the class.
      probability: of the class.
      label: 1 or 0.
    """

    image: int
    class_index: int
    probability: float
    label: int


@dataclass(frozen=True)
class OfClass:
    """The images of a class that tell most, at most `PER_GROUP` of each.

    Attributes:
      best: the true ones of the highest scores.
      missed: true ones that are not predicted, of the lowest scores.
      false: predicted ones that are not true, of the highest scores.
      doubtful: those of the others that are nearest to the threshold.
    """

    best: tuple[Example, ...]
    missed: tuple[Example, ...]
    false: tuple[Example, ...]
    doubtful: tuple[Example, ...]

    def groups(self) -> tuple[tuple[Example, ...], ...]:
        """All four."""
        return self.best, self.missed, self.false, self.doubtful


@dataclass(frozen=True)
class Disagreement:
    """An image that two runs see otherwise.

    Attributes:
      first: what the first run says of the class that they differ most in.
      other: what the other says of it.
    """

    first: Example
    other: Example


def of_class(source: Source, class_index: int) -> OfClass:
    """Chooses the images of a class."""
    logits = source.logits[:, class_index].astype(np.float64)
    label = source.label[:, class_index]
    distance = logits - _cut(source)[class_index]

    def take(among: np.ndarray, order: np.ndarray) -> tuple[Example, ...]:
        numbers = np.flatnonzero(among)
        chosen = numbers[np.argsort(order[numbers], kind="stable")[:PER_GROUP]]
        return tuple(_example(source, image, class_index) for image in chosen)

    best = take(label == 1, -logits)
    missed = take((label == 1) & (distance < 0), logits)
    false = take((label == 0) & (distance >= 0), -logits)
    rest = label >= 0
    rest[[example.image for example in (*best, *missed, *false)]] = False
    return OfClass(best, missed, false, take(rest, np.abs(distance)))


def to_check(source: Source) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The labels that the network contradicts most, `NUM_CHECKED` in all.

    How much, is the distance of a logit from that of the class's threshold: a probability of 0.05
    says little against a label of a class that is predicted from 0.1.

    Returns:
      Negatives that the network finds, and positives that it does not find, the worst first: half
      of either, or more of one where there are fewer of the other.
    """
    distance = source.logits - _cut(source)
    found, missed = (
        _worst(source, np.where(source.label == label, sign * distance, -np.inf))
        for label, sign in ((0, 1), (1, -1))
    )
    half = NUM_CHECKED // 2
    num_found = min(len(found), max(half, NUM_CHECKED - len(missed)))
    return found[:num_found], missed[: NUM_CHECKED - num_found]


def disagreements(first: Source, other: Source) -> tuple[Disagreement, ...]:
    """The images that two runs differ most in, by the class they differ most in.

    Args:
      first: a run.
      other: another, of the same images in the same order.
    """
    difference = np.abs(probability(other.logits) - probability(first.logits))
    difference[first.label < 0] = 0
    classes = difference.argmax(axis=1)
    greatest = difference[np.arange(len(classes)), classes]
    images = np.argsort(-greatest, kind="stable")[:NUM_DISAGREEING]
    return tuple(
        Disagreement(_example(first, image, classes[image]), _example(other, image, classes[image]))
        for image in images
        if greatest[image] > 0
    )


def _cut(source: Source) -> np.ndarray:
    """The logit of each class's threshold, finite."""
    return scipy.special.logit(np.clip(source.threshold, 1e-9, 1 - 1e-9))


def _worst(source: Source, contradiction: np.ndarray) -> tuple[Example, ...]:
    """The labels of the highest positive contradiction, at most `NUM_CHECKED`."""
    flat = contradiction.ravel()
    count = min(NUM_CHECKED, flat.size)
    top = np.argpartition(-flat, count - 1)[:count]
    top = top[np.argsort(-flat[top], kind="stable")]
    places = (np.unravel_index(place, contradiction.shape) for place in top if flat[place] > 0)
    return tuple(_example(source, *place) for place in places)


def _example(source: Source, image: int, class_index: int) -> Example:
    return Example(
        image=int(image),
        class_index=int(class_index),
        probability=float(probability(source.logits[image, class_index])),
        label=int(source.label[image, class_index]),
    )
