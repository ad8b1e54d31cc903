"""What an evaluation found: its metrics, the files in `WORKDIR/eval/DATASET_SPLIT/`, its table."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from oass_jax.evaluation import average_precision, thresholds, voc_server
from oass_jax.evaluation.average_precision import MeanAveragePrecision
from oass_jax.evaluation.precision_recall import precision_recall, predicted, probability
from oass_jax.evaluation.thresholds import Thresholds
from oass_jax.run import workdir
from oass_jax.run.files import none_for_nan
from oass_jax.run.workdir import Workdir


class Evaluation(NamedTuple):
    """The predictions of a split, its labels, and the metrics they give.

    Attributes:
      dataset: name of the data set, `voc/2012`.
      split: name of the split.
      challenge: of the split, see `data.example.Split`; None where there is no server.
      competition: of the challenge, `comp1` or `comp2`.
      class_names: C names.
      filenames: N names of images.
      label: `[N, C]` int8, 1, 0 or -1.
      prediction: `[N, C]` float32 logits, those that are scored.
      scores: weights/head, such as `ema/base` -> `[N, C]` float32 logits, all there are.
      result: the average precisions of `prediction`.
      thresholds: of the classes; None where there are none.
      thresholds_of: the split they were chosen on; None where it is this one.
      keeps_thresholds: whether they become those of the run: they were chosen as it predicts.
      summary: what `summary.json` holds: the metrics, and how the evaluation was made.
    """

    dataset: str
    split: str
    challenge: str | None
    competition: str
    class_names: Sequence[str]
    filenames: Sequence[str]
    label: np.ndarray
    prediction: np.ndarray
    scores: dict[str, np.ndarray]
    result: MeanAveragePrecision
    thresholds: Thresholds | None
    thresholds_of: str | None
    keeps_thresholds: bool
    summary: dict[str, Any]


def summarize(
    class_names: Sequence[str],
    prediction: np.ndarray,
    label: np.ndarray,
    result: MeanAveragePrecision | None = None,
    *,
    threshold: np.ndarray | None = None,
    thresholds_of: str | None = None,
) -> dict[str, Any]:
    """The metrics of a prediction as JSON takes them; what is undefined is None.

    Args:
      class_names: C names.
      prediction: `[N, C]` float32 logits.
      label: `[N, C]` int8, 1, 0 or -1.
      result: the average precisions of `prediction`, if they are known.
      threshold: of each class, float64 `[C]` probabilities; None where there are none.
      thresholds_of: the split they were chosen on; None where it is this one.

    Returns:
      `map`, `map_voc`, `ap`, `absent`, `num_images` and `precision_recall`: by rule, of which
      `best_f1` needs thresholds. Those of another split are measured as they are, and their
      `thresholds_of` is returned, too. Those of this one would be optimistic: the rule is measured
      by halves, see `thresholds.predicted_by_halves`.
    """
    result = result or average_precision.mean_average_precision(prediction, label)
    rules = {"threshold_0.5": predicted(prediction), "top_3": predicted(prediction, top=3)}
    if threshold is not None:
        rules["best_f1"] = (
            predicted(prediction, thresholds=threshold)
            if thresholds_of is not None
            else thresholds.predicted_by_halves(prediction, label)
        )
    by_rule = {rule: precision_recall(labels, label) for rule, labels in rules.items()}
    return {
        "map": none_for_nan(result.map),
        "map_voc": none_for_nan(result.map_voc),
        "ap": dict(zip(class_names, map(none_for_nan, result.ap), strict=True)),
        "absent": [class_names[c] for c in result.absent],
        "num_images": len(prediction),
        "precision_recall": {
            rule: {name: none_for_nan(x) for name, x in quality.overview().items()}
            for rule, quality in by_rule.items()
        },
    } | ({} if thresholds_of is None else {"thresholds_of": thresholds_of})


def write(folder: Workdir, evaluation: Evaluation) -> None:
    """Writes every file of an evaluation, `summary.json` last.

    `summary.json`, `per_class.csv`, `predictions.csv`, `scores.npz`; where there is an evaluation
    server also `results/` and its archive `results.tgz`, see `evaluation.voc_server`. Thresholds
    that were chosen on this split are written to the workdir.

    Args:
      folder: the workdir.
      evaluation: what to write.
    """
    target = folder.evaluation(evaluation.dataset, evaluation.split)
    folder.write_bytes(target / workdir.SCORES, _arrays(evaluation))
    folder.write_csv(
        target / workdir.PREDICTIONS,
        ["image", *evaluation.class_names],
        (
            [name, *(f"{p:.9g}" for p in row)]
            for name, row in zip(
                evaluation.filenames, probability(evaluation.prediction), strict=True
            )
        ),
    )
    if evaluation.challenge:
        files = voc_server.result_files(
            challenge=evaluation.challenge,
            split=evaluation.split,
            competition=evaluation.competition,
            class_names=evaluation.class_names,
            filenames=evaluation.filenames,
            scores=evaluation.prediction,
        )
        for name, text in files.items():
            folder.write_text(target / name, text)
        folder.write_bytes(target / workdir.SERVER_ARCHIVE, voc_server.archive(files))
    if evaluation.thresholds is not None and evaluation.keeps_thresholds:
        thresholds.write(folder, evaluation.class_names, evaluation.thresholds)
    columns = _per_class(evaluation)
    rows = zip(*columns.values(), strict=True)
    folder.write_csv(target / workdir.PER_CLASS, list(columns), rows)
    folder.write_json(target / workdir.SUMMARY, evaluation.summary)


def result_table(summary: dict[str, Any], target: Path) -> str:
    """The average precision of every class as lines of text, their mean, CF1 and OF1.

    Args:
      summary: what `summary.json` holds.
      target: the folder it is in.

    Returns:
      One line that says so where the split has no labels.
    """
    title = (
        f"{summary['dataset']} {summary['split']}, {summary['num_images']} images, "
        f"step {summary['step']}"
    )
    if summary["map"] is None:
        server_file = target / workdir.SERVER_ARCHIVE
        written = f"{server_file} is for the server" if server_file.exists() else f"see {target}"
        return f"{title}: there are no labels to score the predictions with; {written}"
    rows = [*summary["ap"].items(), ("mAP", summary["map"]), ("mAP (VOC)", summary["map_voc"])]
    width = max(len(name) for name, _ in rows)
    lines = [
        f"  {name:<{width}}  " + ("no positives" if ap is None else f"{ap:6.2f}")
        for name, ap in rows
    ]
    of = summary.get("thresholds_of")
    rules = {"best_f1": "best F1, by halves" if of is None else f"thresholds of {of}"}
    lines += [
        f"  CF1 {numbers['cf1']:.2f}  OF1 {numbers['of1']:.2f} "
        f"({rules.get(rule, rule.replace('_', ' '))})"
        for rule, numbers in summary["precision_recall"].items()
    ]
    heading = f"{title}, average precision in percent:"
    return "\n".join([heading, *lines, f"written to {target}"])


def _arrays(evaluation: Evaluation) -> bytes:
    """`scores.npz`: names, labels, thresholds and every logit; needs no pickle."""
    packed, chosen = io.BytesIO(), {}
    if evaluation.thresholds is not None:
        chosen["threshold"] = evaluation.thresholds.probability
    if evaluation.thresholds_of is not None:
        chosen["thresholds_of"] = np.array(evaluation.thresholds_of)
    np.savez(
        packed,
        image=np.array(evaluation.filenames),
        class_name=np.array(evaluation.class_names),
        label=evaluation.label.astype(np.int8),
        prediction=evaluation.prediction.astype(np.float32),
        **chosen,
        **{name: logits.astype(np.float32) for name, logits in evaluation.scores.items()},
    )
    return packed.getvalue()


def _per_class(evaluation: Evaluation) -> dict[str, Sequence]:
    """By column: average precisions, the counts, and precision, recall and F1 at 0.5.

    The last columns are the class's threshold and what it gives, NaN where there is none. On the
    split that the thresholds were chosen on these are in-sample, and so optimistic.
    """
    prediction, label = evaluation.prediction, evaluation.label
    threshold = np.full(label.shape[1], np.nan)
    at_threshold = np.full((3, label.shape[1]), np.nan)
    if evaluation.thresholds is not None:
        threshold = evaluation.thresholds.probability
        quality = precision_recall(predicted(prediction, thresholds=threshold), label)
        at_threshold = quality.precision, quality.recall, quality.f1
    at_half = precision_recall(predicted(prediction), label)
    return {
        "class": evaluation.class_names,
        "ap": evaluation.result.ap.tolist(),
        "ap_voc": evaluation.result.ap_voc.tolist(),
        "positives": (label == 1).sum(axis=0),
        "negatives": (label == 0).sum(axis=0),
        "precision": at_half.precision.tolist(),
        "recall": at_half.recall.tolist(),
        "f1": at_half.f1.tolist(),
        "threshold": [f"{x:.6g}" for x in threshold],
        "precision_at_threshold": at_threshold[0].tolist(),
        "recall_at_threshold": at_threshold[1].tolist(),
        "f1_at_threshold": at_threshold[2].tolist(),
    }
