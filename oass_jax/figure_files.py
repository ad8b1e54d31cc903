"""The flags of the command `figure` -> the files of a figure, for each figure a function.

What a figure needs is imported when it is drawn: Figs. 2 and 6 do without jax.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oass_jax import command_line
from oass_jax.errors import UserError

if TYPE_CHECKING:
    from oass_jax.evaluation.labelled_image import LabelledImage
    from oass_jax.evaluation.predictor import Predictor
    from oass_jax.evaluation.result import Result
    from oass_jax.figures.image_plots import ClassMap
    from oass_jax.figures.object_shift import ObjectShift
    from oass_jax.run.workdir import Workdir

NUM_IMAGES = 6  # of Fig. 5, where none are named
IMAGE_PX = 640  # long side of an image in a figure

# Name of a file -> its content.
Files = dict[str, bytes]


def draw_object_shift(args: argparse.Namespace) -> Files:
    """Needs a data set with boxes."""
    shift, source = _measure_shift(args, None)
    from oass_jax.figures import object_shift, plots, style
    from oass_jax.run.files import csv_text

    y, x = shift.overall_yx
    count = shift.count.sum()
    print(f"{count:,} objects of {source}: |Δx| {x:.1f} px, |Δy| {y:.1f} px on average")
    files = style.render(plots.draw_object_shift, shift, title=f"{source}, {count:,} objects")
    return _named("figure2", files, {"": csv_text(object_shift.HEADER, shift.rows())})


def draw_per_class_gain(args: argparse.Namespace) -> Files:
    """Needs two evaluated runs and boxes of the data."""
    from oass_jax.figures import source
    from oass_jax.run.files import csv_text
    from oass_jax.run.workdir import Workdir

    folders = [Workdir(args.workdir), Workdir(args.baseline)]
    evaluation = source.choose_evaluation(folders, args.eval)
    names = source.short_names(folders)
    run, baseline = (
        source.read(folder, evaluation, name=name)
        for folder, name in zip(folders, names, strict=True)
    )
    shift, boxes_of = _measure_shift(args, folders[0])
    from oass_jax.figures import per_class_gain, plots, style

    gain = per_class_gain.measure(run, baseline, shift)
    for name, value, low, high, num_classes in gain.correlations:
        print(
            f"{name} {value:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}, {num_classes} classes"
        )
    title = f"{names[0]} against {names[1]}, {evaluation}; boxes of {boxes_of}"
    files = style.render(plots.draw_per_class_gain, gain, title=title)
    tables = {
        "": csv_text(per_class_gain.HEADER, gain.rows()),
        "_correlation": csv_text(per_class_gain.CORRELATION_HEADER, gain.correlations),
    }
    return _named("figure6", files, tables)


def draw_keypoints(args: argparse.Namespace) -> Files:
    """Stars are keypoints, dots the local maxima of the class maps, lines the cuts."""
    (model,) = _open_runs(args.workdir)
    from oass_jax.data.image_file import shrink
    from oass_jax.evaluation import keypoint_marks, labelled_image, overlay
    from oass_jax.figures import image_plots, style
    from oass_jax.run.files import csv_text

    if command_line.path(args.image).is_file():
        known = labelled_image.read_file(args.image)
    else:
        known = labelled_image.find(labelled_image.open_evaluated(model), args.image)
    result = model(known.data)
    labels = args.label or known.labels or result.labels
    if not labels:
        best = max(result.probability, key=result.probability.get)
        raise UserError(
            f"no class is predicted of {args.image} (the most probable is {best}, "
            f"{result.probability[best]:.2f}): name one, --label={best}"
        )
    image = shrink(known.image, IMAGE_PX)
    size = (image.height, image.width)
    class_map = np.max([result.class_map(name, size) for name in labels], axis=0)
    marks = keypoint_marks.compare(
        result, labels, model.config.keypoint, boxes=known.boxes, box_label=known.box_label
    )
    drawn = overlay.blend(image, class_map, probability=1.0)
    files = style.render(image_plots.draw_keypoints, drawn, result.size, marks, labels=labels)
    rows = image_plots.marks_rows(marks)
    return _named("figure4", files, {"": csv_text(image_plots.MARKS_HEADER, rows)})


def draw_class_maps(args: argparse.Namespace) -> Files:
    """Each image with the class, of its labels where known, that both runs find most probable."""
    models = _open_runs(args.baseline, args.workdir)
    from oass_jax.evaluation import labelled_image
    from oass_jax.figures import image_plots, source, style
    from oass_jax.run.files import csv_text
    from oass_jax.run.workdir import Workdir

    common = [name for name in models[1].class_names if name in models[0].class_names]
    if not common:
        raise UserError(f"{args.workdir} and {args.baseline} have no class in common")
    images = [labelled_image.read_file(path) for path in args.images]
    images = images or labelled_image.evenly_spaced(
        labelled_image.open_evaluated(models[1]), NUM_IMAGES
    )
    run_names = source.short_names([Workdir(args.baseline), Workdir(args.workdir)])
    columns = []
    for known in images:
        results = [model(known.data) for model in models]
        among = [name for name in known.labels if name in common] or common
        shown = max(among, key=lambda name: sum(each.probability[name] for each in results))
        columns.append(
            [
                _class_map(known, result, shown, run_name)
                for run_name, result in zip(run_names, results, strict=True)
            ]
        )
    rows = list(zip(*columns, strict=True))
    files = style.render(image_plots.draw_class_maps, rows)
    table = csv_text(image_plots.MAPS_HEADER, image_plots.maps_rows(rows))
    return _named("figure5", files, {"": table})


def _class_map(
    known: "LabelledImage", result: "Result", class_name: str, run_name: str
) -> "ClassMap":
    from oass_jax.data.image_file import shrink
    from oass_jax.evaluation import overlay
    from oass_jax.figures.image_plots import ClassMap

    image = shrink(known.image, IMAGE_PX)
    class_map = result.class_map(class_name, (image.height, image.width))
    probability = result.probability[class_name]
    return ClassMap(
        image=known.name,
        class_name=class_name,
        run=run_name,
        probability=probability,
        drawn=overlay.blend(image, class_map, probability=probability),
    )


def _named(name: str, drawn: Mapping[str, bytes], tables: Mapping[str, str]) -> Files:
    """The files of a figure: `drawn` by suffix, `tables` by what follows its name."""
    files = {name + suffix: content for suffix, content in drawn.items()}
    return files | {f"{name}{rest}.csv": text.encode() for rest, text in tables.items()}


def _measure_shift(args: argparse.Namespace, run: "Workdir | None") -> tuple["ObjectShift", str]:
    """The shift of the objects of a split, and what the split is called.

    Args:
      args: of `_add_data_flags`.
      run: whose training split is measured unless --dataset names another; None for VOC2012's.
    """
    from oass_jax import config_file, default_config
    from oass_jax.data import sources

    split_list = None
    if run and not args.dataset:
        data, split_list = config_file.from_json(run.config).data, run.split_list
    else:
        data = default_config.get_config().data
        data.split = "train"
    given = ("dataset", "split", "data_dir", "manual_dir", "path", "image_dir")
    data.update({name: value for name in given if (value := getattr(args, name))})
    open_fn = sources.find_opener(data.dataset)
    if data.dataset in sources.WITH_PATH and not data.path:
        raise UserError(f"--dataset={data.dataset} needs the path of its list or folder: --path")
    location = sources.Location.from_fields(data, split_list=split_list)
    split = open_fn(data.dataset, data.split, location, class_names=None)
    from oass_jax.figures import object_shift

    return object_shift.of_split(split), f"{data.dataset} {data.split}"


def _open_runs(*folders: Path) -> list["Predictor"]:
    """Opens finished runs to predict with; a folder without one is reported before jax is there."""
    from oass_jax.run import libraries
    from oass_jax.run.workdir import Workdir

    for folder in folders:
        Workdir(folder).read_classes()
    libraries.quieten()
    from oass_jax.evaluation import predictor

    return [predictor.load(folder, batch_size=1) for folder in folders]
