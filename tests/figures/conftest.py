"""Workdirs as finished runs leave them."""

import json

import pytest

from oass_jax import config_file

END = "2026-01-{day:02d}T00:00:00+0000"


@pytest.fixture
def write_run():
    """Writes a workdir: `max` on VOC2012 val by default."""

    def write(
        folder,
        val=90.0,
        *,
        config="max",
        evaluations=None,
        images=1449,
        step=100,
        day=1,
        ended=True,
        **fields,
    ):
        config = config_file.load(config).to_dict()
        for name, value in fields.items():
            *path, last = name.split("__")
            nested = config
            for part in path:
                nested = nested.setdefault(part, {})
            nested[last] = value
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        starts = [{"end": None}, {"end": END.format(day=day) if ended else None}]
        (folder / "env.json").write_text(json.dumps({"starts": starts}))
        for name, value in (evaluations or {"voc-2012_val": val}).items():
            (folder / "eval" / name).mkdir(parents=True)
            summary = {"map": value, "map_voc": value and value + 1, "num_images": images}
            summary |= {"step": step, "weights": "student", "logits": config["eval"]["logits"]}
            (folder / "eval" / name / "summary.json").write_text(json.dumps(summary))
        return folder

    return write


@pytest.fixture
def write_seeds(write_run):
    """Writes a run for each value, seed 0 upwards, into FOLDER/seedN."""

    def write(folder, values, *, first=0, **fields):
        for seed, value in enumerate(values, first):
            write_run(folder / f"seed{seed}", value, seed=seed, **fields)

    return write
