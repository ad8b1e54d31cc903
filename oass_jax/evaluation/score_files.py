"""What an evaluation leaves in `WORKDIR/eval/DATASET_SPLIT/`, and what is told of it."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oass_jax.evaluation import average_precision, voc_server
from oass_jax.evaluation.precision_recall import PrecisionRecall, precision_recall
from oass_jax.run import workdir

SERVER_FILE = "results.tgz"


def write_evaluation(
    folder: Path,
    *,
    dataset: str,
    split: str,
    class_names: Sequence[str],
    filenames: Sequence[str],
    label: np.ndarray,
    prediction: np.ndarray,
    scores: dict[str, np.ndarray],
    result: average_precision.MeanAveragePrecision,
    competition: str,
    challenge: str | None,
    about: dict[str, Any],
) -> None:
    """Writes every file of an evaluation, `summary.json` last.

    `summary.json`, `per_class.csv`, `predictions.csv`, `scores.npz`; for a challenge also
    `results/` and its archive `results.tgz`, see `evaluation.voc_server`.

    Args:
      folder: the workdir.
      dataset: tfds name, `voc/2012`.
      split: name of the split.
      class_names: C names.
      filenames: N names of images.
      label: `[N, C]` int8, 1, 0 or -1.
      prediction: `[N, C]` float32 logits, those that are scored.
      scores: weights/kind, such as `ema/base` -> `[N, C]` float32 logits, all there are.
      result: the average precisions of `prediction`.
      competition: `comp1` or `comp2`.
      challenge: such as `VOC2012`, whose server takes the predictions; None where there is none.
      about: what else belongs in the summary: step, weights, logits, difficult.
    """
    target = evaluation_folder(folder, dataset, split)
    arrays = {
        "image": np.array(filenames),
        "class_name": np.array(class_names),
        "label": label.astype(np.int8),
        "prediction": prediction.astype(np.float32),
    } | {name: logits.astype(np.float32) for name, logits in scores.items()}
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    workdir.write_bytes(target / "scores.npz", packed.getvalue())
    probabilities = 1.0 / (1.0 + np.exp(-prediction.astype(np.float64)))
    workdir.write_csv(
        target / "predictions.csv",
        ["image", *class_names],
        (
            [name, *(f"{p:.9g}" for p in row)]
            for name, row in zip(filenames, probabilities, strict=True)
        ),
    )
    if challenge:
        files = voc_server.result_files(
            challenge=challenge,
            split=split,
            competition=competition,
            class_names=class_names,
            filenames=filenames,
            scores=prediction,
        )
        for name, text in files.items():
            workdir.write_text(target / name, text)
        workdir.write_bytes(target / SERVER_FILE, voc_server.archive(files))
    likely = precision_recall(prediction, label)
    columns = _per_class(class_names, label, result, likely)
    rows = zip(*columns.values(), strict=True)
    workdir.write_csv(target / "per_class.csv", list(columns), rows)
    summary = _summary(class_names, prediction, label, result, likely)
    workdir.write_json(target / "summary.json", summary | about)


def recompute_summary(path: Path) -> dict[str, Any]:
    """The metrics of `summary.json`, from the arrays of `scores.npz` alone.

    Args:
      path: of `scores.npz`.

    Returns:
      `map`, `map_voc`, `ap`, `left_out`, `num_images` and `precision_recall`.
    """
    with np.load(path) as arrays:
        class_names, prediction, label = (
            arrays[name] for name in ("class_name", "prediction", "label")
        )
    result = average_precision.mean_average_precision(prediction, label)
    likely = precision_recall(prediction, label)
    return _summary(class_names.tolist(), prediction, label, result, likely)


def evaluation_folder(folder: Path, dataset: str, split: str) -> Path:
    """`WORKDIR/eval/DATASET_SPLIT`, the data set by its tfds name with a dash."""
    return folder / "eval" / f"{dataset.replace('/', '-')}_{split}"


def result_table(folder: Path, dataset: str, split: str) -> str:
    """The average precision of every class as lines of text, their mean, CF1 and OF1.

    Args:
      folder: the workdir.
      dataset: tfds name.
      split: name of the split.

    Returns:
      One line that says so where the split has no labels; an empty string where it was not
      evaluated.
    """
    target = evaluation_folder(folder, dataset, split)
    summary = workdir.read_json(target / "summary.json", None)
    if summary is None:
        return ""
    title = f"{dataset} {split}, {summary['num_images']} images, step {summary['step']}"
    if summary["map"] is None:
        server_file = target / SERVER_FILE
        written = f"{server_file} is for the server" if server_file.exists() else f"see {target}"
        return f"{title}: there are no labels to score the predictions with; {written}"
    rows = [*summary["ap"].items(), ("mAP", summary["map"]), ("mAP (VOC)", summary["map_voc"])]
    width = max(len(name) for name, _ in rows)
    lines = [
        f"  {name:<{width}}  " + ("no positives" if ap is None else f"{ap:6.2f}")
        for name, ap in rows
    ]
    # A run of an older version has none.
    parts = [
        f"CF1 {numbers['cf1']:.2f}  OF1 {numbers['of1']:.2f} ({name.replace('_', ' ')})"
        for name, numbers in summary.get("precision_recall", {}).items()
    ]
    lines += ["  " + "  ".join(parts)] if parts else []
    return "\n".join([f"{title}, average precision in percent:", *lines, f"written to {target}"])


def _summary(
    class_names: Sequence[str],
    prediction: np.ndarray,
    label: np.ndarray,
    result: average_precision.MeanAveragePrecision,
    likely: PrecisionRecall,
) -> dict[str, Any]:
    """The metrics of a prediction as JSON takes them; what is undefined is null."""
    by_rule = {"threshold_0.5": likely, "top_3": precision_recall(prediction, label, top=3)}
    return {
        "map": workdir.null_for_nan(result.map),
        "map_voc": workdir.null_for_nan(result.map_voc),
        "ap": dict(zip(class_names, map(workdir.null_for_nan, result.ap), strict=True)),
        "left_out": [class_names[c] for c in result.left_out],
        "num_images": len(prediction),
        "precision_recall": {
            rule: {name: workdir.null_for_nan(x) for name, x in quality.overview().items()}
            for rule, quality in by_rule.items()
        },
    }


def _per_class(
    class_names: Sequence[str],
    label: np.ndarray,
    result: average_precision.MeanAveragePrecision,
    likely: PrecisionRecall,
) -> dict[str, Sequence]:
    """By column: average precisions, the counts, and precision, recall and F1 at 0.5."""
    return {
        "class": class_names,
        "ap": result.ap.tolist(),
        "ap_voc": result.ap_voc.tolist(),
        "positives": (label == 1).sum(axis=0),
        "negatives": (label == 0).sum(axis=0),
        "precision": likely.precision.tolist(),
        "recall": likely.recall.tolist(),
        "f1": likely.f1.tolist(),
    }
