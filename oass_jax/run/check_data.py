"""`--mode=check`: reads everything that a training would read, before it."""

import functools
from collections.abc import Iterable, Iterator

from ml_collections import ConfigDict

from oass_jax.data import check, pipeline
from oass_jax.data.sources.image_list import ListError
from oass_jax.run import build
from oass_jax.run.console import Console
from oass_jax.run.workdir import Workdir


def check_data(config: ConfigDict, folder: Workdir | None) -> int:
    """Reads and decodes the splits of a config and prints what there is and what is wrong.

    Args:
      config: `data` and `eval` are read.
      folder: of a run that has begun, which knows its validation images; None for none.

    Returns:
      The exit status: 1 if there are problems.

    Raises:
      UserError: there is no such data set or split.
    """
    build.create_encoder(config)  # which refuses sizes that do not go with it
    try:
        splits = list(_open_splits(config, folder))
    except ListError as error:
        print("\n".join(check.summarize(error.problems)), flush=True)
        return 1
    console = Console()
    try:
        options = build.read_options(config)
        report = check.check_splits(
            splits,
            max_boxes=options.max_boxes,
            num_threads=options.num_threads,
            track=functools.partial(_track, console),
        )
    finally:
        console.close()
    print("\n".join([*report.lines, "", *check.summarize(report.problems)]), flush=True)
    return 1 if report.problems else 0


def _open_splits(config: ConfigDict, folder: Workdir | None) -> Iterator[pipeline.Split]:
    """Those of training and evaluation, and the others of a list."""
    data, evaluation = config.data, config.eval
    split = build.open_split(config, folder, data.dataset, data.split)
    yield split
    names = [(evaluation.dataset, evaluation.split)]
    names += [(data.dataset, name) for name in split.siblings]
    opened = {(data.dataset, data.split), (data.dataset, data.split.partition("[")[0])}
    for dataset, name in names:
        if (dataset, name) not in opened:
            opened |= {(dataset, name), (dataset, name.partition("[")[0])}
            yield build.open_split(config, folder, dataset, name, class_names=split.class_names)


def _track(console: Console, images: Iterable, split: pipeline.Split) -> Iterator:
    return console.track(
        images, activity=f"checking {split.split}", num_images=len(split), batch_size=1
    )
