"""Tables 1 to 3 of the paper, and which row of them a run belongs to."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oass_jax import config_file
from oass_jax.figures.runs import nearest_config, settings
from oass_jax.run import model_card

DEMO = "demo:"  # before the name of a row: the same method on the demo's data
# The encoders of the paper; the tiny one stands in for ResNet-50 where a run is on the demo's data.
ARCHITECTURES = {"resnet50": "ResNet-50", "resnet101": "ResNet-101", "resnet_tiny": "tiny ResNet"}


@dataclass(frozen=True)
class Row:
    """A row as the paper prints it.

    Attributes:
      name: of its config in `configs/`, without `.py`.
      method: the paper's words.
      map: the paper's figure in percent, None where it has none.
      architecture: of the encoder.
    """

    name: str
    method: str
    map: float | None
    architecture: str = "ResNet-50"


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, or of methods that it does not have.

    Attributes:
      number: the paper's; None where it has no such table.
      title: what it shows.
      split: what the paper's figures are of, in words.
      evaluation: the same as `DATASET_SPLIT` of a workdir.
      num_images: of that split.
      rows: from top to bottom.
      baselines: rows others are compared with; `without_csi` is the same row without CSI.
    """

    number: int | None
    title: str
    split: str
    evaluation: str
    num_images: int
    rows: tuple[Row, ...]
    baselines: tuple[str, ...] = ("puzzlecam", "supervised")


TABLES = (
    PaperTable(
        number=1,
        title="Comparison with the state of the art",
        split="VOC2012 val",
        evaluation="voc-2012_val",
        num_images=1_449,
        rows=(
            Row("ssgrl_r101", "SSGRL", 91.9, "ResNet-101"),
            Row("ssgrl", "SSGRL", 91.4),
            Row("mcar", "MCAR", 90.04),
            Row("puzzlecam_r101", "PuzzleCAM", 92.60, "ResNet-101"),
            Row("puzzlecam", "PuzzleCAM", 89.3),
            Row("supervised", "Supervised", None),
            # With CSI: their figures are those of Table 3's second column.
            Row("gt_bbox_csi", "Ours (w/ gt-bbox)", 92.62),
            Row("max_csi", "Ours (Max)", 92.45),
            Row("ctopk_w_csi", "Ours (cTopk-w)", 92.20),
        ),
    ),
    PaperTable(
        number=2,
        title="Comparison with the baseline on a test split",
        split="VOC2012 test",
        evaluation="voc-2012_test",
        num_images=10_991,
        rows=(
            Row("puzzlecam", "PuzzleCAM", 81.37),
            Row("supervised", "Supervised", None),
            Row("max_csi", "Ours (Max) w/ CSI", 84.27),
            Row("ctopk_w", "Ours (cTopk-w) w/o CSI", 88.43),
        ),
    ),
    PaperTable(
        number=3,
        title="Ablation of the keypoint strategies, each without and with CSI",
        split="VOC2012 val",
        evaluation="voc-2012_val",
        num_images=1_449,
        rows=(
            Row("gt_bbox", "Ours (w/ gt-bbox) w/o CSI", 92.65),
            Row("gt_bbox_csi", "Ours (w/ gt-bbox) w/ CSI", 92.62),
            Row("max", "Ours (Max) w/o CSI", 92.38),
            Row("max_csi", "Ours (Max) w/ CSI", 92.45),
            Row("cmax", "Ours (cMax) w/o CSI", 91.58),
            Row("cmax_csi", "Ours (cMax) w/ CSI", 92.08),
            Row("ctopk", "Ours (cTopk) w/o CSI", 92.21),
            Row("ctopk_csi", "Ours (cTopk) w/ CSI", 92.05),
            Row("ctopk_w", "Ours (cTopk-w) w/o CSI", 92.02),
            Row("ctopk_w_csi", "Ours (cTopk-w) w/ CSI", 92.20),
        ),
        baselines=("puzzlecam", "supervised", "without_csi"),
    ),
)
OTHERS = PaperTable(
    number=None,
    title="What the paper has no row for",
    split="VOC2012 val",
    evaluation="voc-2012_val",
    num_images=1_449,
    rows=(),  # those that were run
    baselines=("puzzlecam", "supervised", "max"),
)
ROWS = tuple(dict.fromkeys(row.name for table in TABLES for row in table.rows))


@functools.cache
def configs() -> dict[str, dict[str, Any]]:
    """Name -> `runs.settings` of the config of every row, `max`, and of its demo, `demo:max`."""
    names = [prefix + row for row in ROWS for prefix in ("", DEMO)]
    return {name: settings(config_file.flatten(config_file.load(name).to_dict())) for name in names}


def config_of(fields: Mapping[str, Any]) -> str | None:
    """The config a run is of, by what it did and not by what it was called.

    Args:
      fields: `a.b` -> value of its config. A field that older runs do not have counts as off.

    Returns:
      One of `configs()`, or None for a run the paper has no row for.
    """
    return nearest_config(settings(fields), configs())


def row_of(fields: Mapping[str, Any]) -> str | None:
    """The row of `ROWS` a run belongs to, see `config_of`."""
    name = config_of(fields)
    return name and name.removeprefix(DEMO)


def method_of(fields: Mapping[str, Any]) -> str:
    """The row a run belongs to; of one that the paper has no row for its method in words."""
    return row_of(fields) or model_card.method(fields)


def baseline_row(name: str, baseline: str) -> str | None:
    """The row that a row is compared with.

    Args:
      name: of a row.
      baseline: one of a table's `baselines`.

    Returns:
      One of `ROWS`; None where there is nothing to compare.
    """
    if baseline == "without_csi":
        return name.removesuffix("_csi") if name.endswith("_csi") else None
    return baseline if name != baseline else None
