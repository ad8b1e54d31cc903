"""Evaluations -> the text of `report.html`."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from oass_jax.evaluation import bootstrap
from oass_jax.evaluation.precision_recall import probability
from oass_jax.figures.report import chart, curves, examples, metrics, pictures, thumbnails
from oass_jax.figures.report.chart import Chart
from oass_jax.figures.report.curves import Steps
from oass_jax.figures.report.examples import Disagreement, OfClass
from oass_jax.figures.report.metrics import ClassNumbers, Estimate, Gain, Numbers
from oass_jax.figures.report.thumbnails import Thumbnail
from oass_jax.figures.source import Source, aligned
from oass_jax.run import model_card

MAX_BYTES = 3_000_000
# What is written about pictures, beside the pictures.
_MARGIN = 50_000
# Classes that are shown with images and curves, and in the table: those of the lowest average
# precision.
MAX_DETAILED = 100
MAX_LISTED = 1000
MAX_NAMES = 6  # of the labels in an alternative text
TEMPLATES = Path(__file__).parent / "templates"
_NONE = "\N{EN DASH}"
_SPACE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class ClassDetails:
    """What is shown of a class beside its numbers.

    Attributes:
      numbers: in the table.
      examples: images.
      curve: precision against recall, the `d` of a path in a square of 100, upside down.
      steps: for the slider.
    """

    numbers: ClassNumbers
    examples: OfClass
    curve: str
    steps: Steps


@dataclass(frozen=True)
class Comparison:
    """A run against the first.

    Attributes:
      source: of the other run.
      map: difference of mAP, in points.
      gains: of the classes that are shown, the greatest first.
      num_gains: classes that have one.
      disagreements: images.
    """

    source: Source
    map: Estimate
    gains: Sequence[Gain]
    num_gains: int
    disagreements: tuple[Disagreement, ...]


def render(sources: Sequence[Source]) -> str:
    """Makes the report.

    Args:
      sources: evaluations of the same split; all but the comparison is of the first.

    Raises:
      UserError: they are of other images, classes or labels.
    """
    first = sources[0]
    sources = [first, *(aligned(first, other) for other in sources[1:])]
    num_draws = metrics.num_draws(*first.label.shape)
    weights = bootstrap.draw_weights(len(first.images), num_draws)
    numbers = [metrics.measure(source, weights) for source in sources]
    comparisons = [
        Comparison(
            source=source,
            map=metrics.map_gain(numbers[0], own),
            gains=metrics.class_gains(numbers[0], own),
            num_gains=sum(each.ap.is_known for each in own.classes),
            disagreements=examples.disagreements(first, source),
        )
        for source, own in zip(sources[1:], numbers[1:], strict=True)
    ]
    details = _details(first, numbers[0])
    to_check = examples.to_check(first)
    bins = curves.bins(probability(first.logits), first.label)
    template = _environment().get_template("report.html")
    fill = functools.partial(
        template.render,
        style=_text("style.css"),
        script=_text("script.js"),
        sources=sources,
        numbers=numbers,
        rule=_rule(sources, numbers),
        titles=[_title(source) for source in sources],
        starts=[source.folder.starts()[-1:] for source in sources],
        num_draws=num_draws,
        comparisons=comparisons,
        listed=_lowest(numbers[0].classes, MAX_LISTED),
        details=details,
        steps={each.numbers.index: asdict(each.steps) for each in details},
        bins=bins,
        calibration=_calibration(bins),
        pairs=curves.pairs(first),
        charts=_training_charts(sources),
        to_check=to_check,
    )
    return _with_images(fill, sources, list(_by_importance(to_check, comparisons, details)))


def _title(source: Source) -> str:
    """What was trained; empty where the config is gone."""
    fields = source.folder.fields()
    return model_card.title(fields) if fields else ""


def _with_images(fill: Callable[..., str], sources: Sequence[Source], wanted: Sequence[int]) -> str:
    """Fills the rest of the report with images.

    Args:
      fill: makes the page from them.
      sources: evaluations.
      wanted: numbers of images of the first, the most important first.
    """
    nothing = {"pictures": [[] for _ in sources], "more_pictures": 0, "notes": []}
    frames = dict.fromkeys(wanted, Thumbnail("", 0, 0))
    room = MAX_BYTES - _MARGIN - len(fill(thumbnails=frames, **nothing).encode())
    drawn = [pictures.read(each.files, max_bytes=room // 2 // len(sources)) for each in sources]
    room -= sum(len(picture.uri) for found, _ in drawn for picture in found)
    images, notes = thumbnails.read(sources[0], wanted, max_bytes=room)
    return fill(
        thumbnails=images,
        pictures=[found for found, _ in drawn],
        more_pictures=drawn[0][1],
        notes=notes,
    )


def _details(source: Source, numbers: Numbers) -> list[ClassDetails]:
    """Of the classes with the lowest average precision, in the order of the scores."""
    known = [each for each in numbers.classes if each.ap.is_known]
    details = []
    for each in _lowest(known, MAX_DETAILED):
        recall, precision = curves.precision_recall_curve(
            source.logits[:, each.index], source.label[:, each.index]
        )
        details.append(
            ClassDetails(
                numbers=each,
                examples=examples.of_class(source, each.index),
                curve=chart.path(recall, 100 - precision),
                steps=curves.threshold_steps(source, each.index),
            )
        )
    return details


def _lowest(classes: Sequence[ClassNumbers], max_count: int) -> list[ClassNumbers]:
    """Of more than `max_count` classes those of the lowest AP, in their own order."""
    by_ap = sorted(classes, key=lambda each: (not each.ap.is_known, each.ap.value))
    return sorted(by_ap[:max_count], key=lambda each: each.index)


def _by_importance(
    to_check: tuple[Sequence[examples.Example], ...],
    comparisons: Sequence[Comparison],
    details: Sequence[ClassDetails],
) -> Iterator[int]:
    """Numbers of images, so that each class has its first of each group before one its second."""
    yield from (example.image for group in to_check for example in group)
    yield from (each.first.image for one in comparisons for each in one.disagreements)
    groups = [group for each in details for group in each.examples.groups()]
    for row in itertools.zip_longest(*groups):
        yield from (example.image for example in row if example is not None)


def _calibration(bins: Sequence[curves.Bin]) -> Chart:
    filled = [one for one in bins if one.count]
    series = {
        "are there": ([x.predicted for x in filled], [x.true for x in filled]),
        "as it should be": ([0.0, 100.0], [0.0, 100.0]),
    }
    return chart.line_chart(
        "Calibration: % of the labels that are there",
        series,
        x_label="mean probability, %",
        x_range=(0, 100),
        y_range=(0, 100),
    )


def _training_charts(sources: Sequence[Source]) -> list[Chart]:
    """Losses, learning rates and mAP: every one of one run, or the main one of several."""
    found = [curves.read_metrics(source.folder) for source in sources]
    charts = []
    for title, main in (
        ("Loss", "train/loss"),
        ("Learning rate", "train/learning_rate"),
        ("mAP on the validation split, %", "val/map"),
    ):
        if len(sources) == 1:
            series = {name: xy for name, xy in found[0].items() if _belongs(name, main)}
        else:
            series = {
                source.name: own[main]
                for source, own in zip(sources, found, strict=True)
                if main in own
            }
        if series:
            charts.append(chart.line_chart(title, series, x_label="step"))
    return charts


def _belongs(name: str, main: str) -> bool:
    return name == main or name.startswith(f"{main}_")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "share": _share,
        "signed": lambda points: f"{points:+z.1f}".replace("-", "\N{MINUS SIGN}"),
        "count": lambda number: f"{number:,}",
        "short": _short,
        "difference": _difference,
        "to": _interval,
    }
    environment.globals |= {"frame": chart, "missing": _NONE}
    environment.globals |= {"labels_of": _labels_of, "headline_rule": _headline_rule}
    environment.globals |= {"gain_span": _gain_span}
    return environment


def _percent(value: float | None) -> str:
    return _NONE if value is None or math.isnan(value) else f"{value:.1f}{_SPACE}%"


def _share(share: float) -> str:
    """A probability in percent; the threshold of a rare class may be far below one."""
    value = 100 * share
    return f"{value:.2g}{_SPACE}%" if 0 < value < 0.1 else _percent(value)


def _interval(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return _NONE
    return f"{estimate.low:z.1f} to {estimate.high:z.1f}".replace("-", "\N{MINUS SIGN}")


def _difference(number: int) -> str:
    return f"{number:+,}".replace("-", "\N{MINUS SIGN}") if number else "0"


def _short(number: int) -> str:
    """A count that fits over a narrow column: 950, 1.2k, 35k."""
    if number < 1000:
        return str(number)
    return f"{number / 1000:.1f}k" if number < 10_000 else f"{number / 1000:.0f}k"


def _labels_of(source: Source, image: int) -> str:
    """The names of an image's labels, for its alternative text."""
    names = [source.class_names[c] for c in np.flatnonzero(source.label[image] == 1)]
    more = f" and {len(names) - MAX_NAMES} more" * (len(names) > MAX_NAMES)
    return ", ".join(names[:MAX_NAMES]) + more or "nothing"


def _rule(sources: Sequence[Source], numbers: Sequence[Numbers]) -> str:
    """What CF1 and OF1 are measured by: the thresholds, if all have them of the same making."""
    all_have = all("best_f1" in own.rules for own in numbers)
    is_one_making = len({source.thresholds_of is None for source in sources}) == 1
    return "best_f1" if all_have and is_one_making else "threshold_0.5"


def _headline_rule(numbers: Numbers, rule: str) -> Mapping[str, Any]:
    return numbers.rules[rule]


def _gain_span(gains: Sequence[Gain]) -> float:
    """The greatest absolute end of an interval, for the scale of the bars."""
    ends = [abs(end) for gain in gains for end in (gain.difference.low, gain.difference.high)]
    return max((end for end in ends if not math.isnan(end)), default=0.0) or 1.0


def _text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
