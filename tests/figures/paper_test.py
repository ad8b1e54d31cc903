import itertools

import pytest

from oass_jax import config_file, default_config
from oass_jax.figures import paper
from oass_jax.figures.runs import flatten

SHARED = flatten(default_config.get_config().to_dict())
CENTER = {"keypoint.strategy": "center", "teacher.mode": "siamese"}
NO_TEACHER = {"teacher.mode": "none"}


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ({}, "max"),
        ({"model.csi": True}, "max_csi"),
        ({"model.csi": False}, "max"),
        ({"keypoint.strategy": "gt_bbox", "model.csi": True}, "gt_bbox_csi"),
        ({"model.encoder": "resnet_tiny"}, "max"),
        ({"model.encoder": "resnet101"}, None),
        ({"model.encoder": "own"}, "max"),
        ({"model.encoder": "resnet50_v1"}, "max"),
        ({"keypoint.strategy": "own"}, None),
        ({"num_epochs": 8.0, "batch_size": 8, "loss.alpha_p": 1.0}, "max"),
        ({"loss.alpha_p": 0.0, "loss.alpha_re": 0.0}, "supervised"),
        ({"loss.alpha_p": 0.0, "loss.alpha_re": 0.0, "model.csi": True}, None),
        ({"loss.alpha_p": 0.0}, "max"),
        ({"teacher.mode": "siamese"}, None),
        ({"keypoint.strategy": "center"}, None),
        (CENTER, "puzzlecam"),
        (CENTER | {"model.encoder": "resnet101"}, "puzzlecam_r101"),
        (CENTER | {"model.csi": True}, None),
        (NO_TEACHER, "supervised"),
        (NO_TEACHER | {"keypoint.strategy": "center"}, "supervised"),
        (NO_TEACHER | {"model.csi": True}, None),
        (NO_TEACHER | {"regions.count": 4}, "mcar"),
        (NO_TEACHER | {"regions.count": 0}, "supervised"),
        (NO_TEACHER | {"model.graph": True}, "ssgrl"),
        (NO_TEACHER | {"model.graph": True, "model.encoder": "resnet101"}, "ssgrl_r101"),
        (NO_TEACHER | {"model.graph": True, "model.encoder": "own"}, "ssgrl"),
        (NO_TEACHER | {"model.graph": True, "regions.count": 4}, None),
        ({"model.graph": True}, None),
    ],
)
def test_a_run_belongs_where_its_fields_say(fields, row):
    assert paper.row_of(SHARED | fields) == row


def test_every_row_can_be_reached():
    cases = itertools.product(
        default_config.CHOICES["keypoint.strategy"],
        ("none", "siamese", "ema"),
        (False, True),
        ("resnet50", "resnet101"),
        (0, 4),
        (False, True),
    )
    names = ("keypoint.strategy", "teacher.mode", "model.csi", "model.encoder")
    names += ("regions.count", "model.graph")
    reached = {paper.row_of(dict(zip(names, case, strict=True))) for case in cases}
    assert reached - {None} == set(paper.ROWS)


@pytest.mark.parametrize("name", paper.ROWS)
def test_a_config_is_of_its_own_row(name):
    assert paper.config_of(flatten(config_file.load(name).to_dict())) == name
    small = flatten(config_file.load(f"demo:{name}").to_dict())
    # The demo has one encoder for all.
    assert paper.row_of(small) == name.removesuffix("_r101")


def test_the_figures_agree_between_the_tables_of_val():
    """Ours in Table 1 are with CSI, so Table 3 prints the same."""
    first, _, third = paper.TABLES
    of_third = {row.name: row.map for row in third.rows}
    common = [row for row in first.rows if row.name in of_third]
    assert {row.name: row.map for row in common} == {
        "gt_bbox_csi": 92.62,
        "max_csi": 92.45,
        "ctopk_w_csi": 92.20,
    }
    assert all(of_third[row.name] == row.map for row in common)


def test_a_row_is_not_compared_with_itself():
    assert paper.baseline_row("max", "puzzlecam") == "puzzlecam"
    assert paper.baseline_row("puzzlecam", "puzzlecam") is None
    assert paper.baseline_row("max_csi", "without_csi") == "max"
    assert paper.baseline_row("max", "without_csi") is None
