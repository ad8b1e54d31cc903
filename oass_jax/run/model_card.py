"""`WORKDIR/README.md`, the model card: the numbers so far, the command, and what each file is."""

from collections.abc import Mapping
from typing import Any

from oass_jax.run.workdir import Workdir, command, read_summary


def write(folder: Workdir) -> None:
    """Writes the model card of a workdir."""
    summaries = {name: read_summary(path) for name, path in folder.summaries().items()}
    results = [
        _headline(name, summary)
        for name, summary in summaries.items()
        if summary.get("map") is not None
    ]
    starts = folder.starts()
    text = _README.format(
        title=title(folder.fields()),
        results="\n".join(results) or "Not evaluated yet.",
        command=starts[-1].get("command", command()) if starts else command(),
    )
    folder.write_text(folder.readme, text)


def title(fields: Mapping[str, Any]) -> str:
    """A run in one line: encoder, data and method.

    Args:
      fields: `a.b` -> value of a config; what an older one lacks is off.
    """
    return f"{fields.get('model.encoder')} on {fields.get('data.dataset')}, {method(fields)}"


def method(fields: Mapping[str, Any]) -> str:
    """What makes the method of a run, in words.

    Args:
      fields: as of `title`.
    """
    mode = fields.get("teacher.mode", "none")
    has_patches = fields.get("loss.alpha_p") or fields.get("loss.alpha_re")
    keypoint = (
        f", keypoint {fields.get('keypoint.strategy')}" if has_patches else " without patches"
    )
    used = {
        f"{mode} teacher{keypoint}": mode != "none",
        "class-specific instances": fields.get("model.csi"),
        "SSGRL's graph": fields.get("model.graph"),
        f"{fields.get('regions.count')} regions of MCAR": fields.get("regions.count"),
    }
    return ", ".join(part for part, is_used in used.items() if is_used) or "supervised"


def _headline(name: str, summary: dict[str, Any]) -> str:
    return (
        f"* {name}: mAP {summary['map']:.2f}, {summary['map_voc']:.2f} by VOC's formula, over "
        f"{summary['num_images']} images at {summary['image_px']} px ({summary['weights']} "
        f"weights, step {summary['step']})"
    )


_README = """# {title}

{results}

    {command}

The same command continues the run; when it is finished it shows the result.

| file | what it is |
| --- | --- |
| `config.json` | every field; in another workdir `--config=from_json:FILE` replays it |
| `env.json` | every start: step, time, versions, devices, commit, command line |
| `classes.txt` | class names in the order of the scores |
| `split.csv` | which images are for validation, where the data does not say so |
| `checksums.npy` | of the images read so far, in the order of the training split |
| `thresholds.json` | the probability each class is predicted from, of best F1 on validation |
| `metrics.jsonl` | training and validation metrics, one JSON object a line |
| `tb/` | the same for TensorBoard |
| `report.html` | numbers, curves and images on one page; made by `python -m oass_jax.report` |
| `checkpoints/` | orbax: the last ones and the best by validation mAP |
| `eval/DATASET_SPLIT/summary.json` | mAP, AP of each class, F1, and how it was evaluated |
| `eval/DATASET_SPLIT/per_class.csv` | the same numbers, counts and threshold of each class |
| `eval/DATASET_SPLIT/predictions.csv` | the probability of each class for each image |
| `eval/DATASET_SPLIT/scores.npz` | every logit and label; `numpy.load` reads it |
| `eval/DATASET_SPLIT/pictures/` | of some images: the class maps, and where the method cuts them |
| `eval/DATASET_SPLIT/results.tgz` | for PASCAL VOC's evaluation server, of VOC data sets |
| `cams/DATASET_SPLIT/summary.json` | mIoU and pointing game of the class maps, percent |
| `cams/DATASET_SPLIT/thresholds.csv` | mIoU at each background threshold |
| `cams/DATASET_SPLIT/per_class.csv` | IoU and false pixels of each class at the best threshold |
| `cams/DATASET_SPLIT/IMAGE.npy` | the maps of an image, if exported; / of its path is %2F |
"""
