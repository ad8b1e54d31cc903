import dataclasses
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from oass_jax.data import pipeline
from oass_jax.data.pipeline import eval_batches, train_batches
from oass_jax.errors import UserError

OPTIONS = pipeline.ReadOptions(
    canvas_px=50, max_boxes=56, difficult="positive", num_workers=0, num_threads=2, cache=False
)
EVAL = {"batch_size": 4, "process_index": 0, "process_count": 1}
TRAIN = EVAL | {"seed": 3, "start_step": 0}


@pytest.fixture(scope="session")
def split(voc_data_dir):
    return pipeline.open_split("voc/2012", "train_aug", pipeline.Location(data_dir=voc_data_dir))


@pytest.fixture(scope="session")
def val(voc_data_dir):
    return pipeline.open_split("voc/2012", "val", pipeline.Location(data_dir=voc_data_dir))


def with_changes(changes):
    """The reading options with those of the changes that are theirs, and the other changes."""
    names = {field.name for field in dataclasses.fields(OPTIONS)}
    options = {name: value for name, value in changes.items() if name in names}
    others = {name: value for name, value in changes.items() if name not in names}
    return dataclasses.replace(OPTIONS, **options), others


def train(split, count, **changes):
    options, others = with_changes(changes)
    return list(itertools.islice(train_batches(split, options, **TRAIN | others), count))


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)
            assert a[key].dtype == b[key].dtype


def test_every_epoch_has_each_example_once_in_another_order(split):
    size = len(split)
    index = np.concatenate([b["index"] for b in train(split, 3, batch_size=size)]).reshape(3, size)
    assert (np.sort(index) == np.arange(size)).all()
    assert len({tuple(epoch) for epoch in index}) > 1
    other = train(split, 3, batch_size=size, seed=4)
    assert any((a != b["index"]).any() for a, b in zip(index, other, strict=True))


@pytest.mark.parametrize("changes", [{"num_threads": 0}, {"num_threads": 5}, {"cache": True}])
def test_threads_and_cache_change_nothing(split, changes):
    # Long enough for a second epoch, which the cache serves.
    count = 2 * len(split) // 4 + 1
    assert_same(train(split, count, **changes), train(split, count))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(split, num_workers):
    assert_same(train(split, 5, num_workers=num_workers), train(split, 5))


def test_a_signal_to_all_does_not_end_the_workers(split):
    """Ctrl-C and a scheduler send it to them, too, while the run is to save its state."""
    batches = train_batches(split, dataclasses.replace(OPTIONS, num_workers=1), **TRAIN)
    found = [next(batches)]
    for worker in multiprocessing.active_children():
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, number)
    found += itertools.islice(batches, 15)  # more than were read ahead
    batches.close()
    assert_same(found, train(split, 16))
    assert not multiprocessing.active_children()


def test_a_run_resumes_at_any_step(split):
    batches = train(split, 7)
    for start in (1, 4, 6):
        assert_same(train(split, 7 - start, start_step=start), batches[start:])


@pytest.mark.parametrize("count", [2, 4])
def test_hosts_share_the_batch_of_one(split, count):
    whole = train(split, 5)
    parts = [train(split, 5, process_index=i, process_count=count) for i in range(count)]
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)
    parts = [
        train(split, 2, process_index=i, process_count=count, start_step=3) for i in range(count)
    ]
    assert_same(
        [{"index": np.concatenate([p[0]["index"] for p in parts])}], [{"index": whole[3]["index"]}]
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_is_one_pass_in_order_with_padding(val, num_workers):
    batch_size = len(val) - 1
    options = dataclasses.replace(OPTIONS, num_workers=num_workers)
    first, last = eval_batches(val, options, **EVAL | {"batch_size": batch_size})
    assert first["mask"].all()
    assert last["mask"].tolist() == [True] + [False] * (batch_size - 1)
    index = np.concatenate([first["index"], last["index"]])
    assert index.tolist() == [*range(len(val)), *[-1] * (batch_size - 1)]
    assert not last["image"][1:].any()


def test_hosts_evaluate_the_same_number_of_batches(val):
    arguments = EVAL | {"batch_size": 2, "process_count": 2}
    parts = [list(eval_batches(val, OPTIONS, **arguments | {"process_index": i})) for i in range(2)]
    assert len(parts[0]) == len(parts[1])
    index = [np.concatenate([a["index"], b["index"]]) for a, b in zip(*parts, strict=True)]
    real = [i for i in np.concatenate(index) if i >= 0]
    assert real == list(range(len(val)))


def test_labels_boxes_and_sizes_of_the_records(val):
    batches = list(eval_batches(val, OPTIONS, **EVAL))
    for batch in batches:
        for row in np.flatnonzero(batch["mask"]):
            record = val.source[int(batch["index"][row])]
            assert np.flatnonzero(batch["label"][row]).tolist() == list(record["labels"])
            number = len(record["objects"]["label"])
            np.testing.assert_array_equal(batch["boxes"][row, :number], record["objects"]["bbox"])
            assert batch["box_label"][row, :number].tolist() == record["objects"]["label"]
            assert (batch["box_label"][row, number:] == -1).all()
            height, width = batch["size"][row]
            assert max(height, width) == 50  # every photograph here is larger
            assert not batch["image"][row, height:].any()
            assert not batch["image"][row, :, width:].any()
            assert batch["image"][row, :height, :width].any(axis=-1).mean() > 0.5


def test_a_slice_of_a_split(voc_data_dir, val):
    part = pipeline.open_split("voc/2012", "val[1:3]", pipeline.Location(data_dir=voc_data_dir))
    assert [part.filename(i) for i in range(len(part))] == [val.filename(1), val.filename(2)]
    with pytest.raises(UserError, match="is no slice"):
        pipeline.open_split("voc/2012", "val[1", pipeline.Location(data_dir=voc_data_dir))


def test_settings_that_do_not_fit_are_refused(split):
    with pytest.raises(UserError, match=r"data\.cache needs data\.num_workers=0"):
        train(split, 1, cache=True, num_workers=1)
    sentence = "a batch of 4 cannot be shared by 3 processes: make --config.{}batch_size a multiple"
    with pytest.raises(UserError, match=sentence.format("")):
        train(split, 1, process_count=3)
    with pytest.raises(UserError, match=sentence.format("eval.")):
        list(eval_batches(split, OPTIONS, **EVAL | {"process_count": 3}))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_few_slots_is_a_sentence_even_from_a_worker(split, num_workers):
    with pytest.raises(UserError, match=r"objects: set data\.max_boxes"):
        train(split, 8, max_boxes=0, num_workers=num_workers)


def test_fingerprint_tells_inputs_apart(split, val):
    def fingerprint(split, **changes):
        options, others = with_changes(changes)
        return pipeline.fingerprint(split, options, **{"batch_size": 4, "seed": 1} | others)

    first = fingerprint(split)
    assert json.loads(json.dumps(first)) == first
    assert first == fingerprint(split)
    assert first != fingerprint(val)
    others = {"batch_size": 8, "seed": 2, "canvas_px": 51, "difficult": "ignore"}
    for field, value in others.items():
        assert fingerprint(split, **{field: value}) != first
    # How fast it is read changes no batch, and room for more boxes no image and no label.
    assert fingerprint(split, num_threads=7, num_workers=1, max_boxes=9) == first
    assert list(first) == [
        *("dataset", "version", "split", "sources", "num_records", "batch_size", "seed"),
        *("canvas_px", "difficult"),
    ]


PROGRAM = """
import multiprocessing
import os
import sys
import numpy as np
from absl import app
{forbid}

def main(_):
    from oass_jax.data import pipeline
    split = pipeline.open_split("voc/2012", "train_aug", pipeline.Location(data_dir=sys.argv[1]))
    options = pipeline.ReadOptions(**{options})
    batches = pipeline.train_batches(split, options, **{arguments})
    print([next(batches)["index"].tolist() for _ in range(3)])
    print("tensorflow" in sys.modules)
    {end}

if __name__ == "__main__":
    app.run(main)
"""
# grain itself imports jax where it finds it; nothing here does, nor is it needed anywhere.
FORBID_JAX = "sys.modules['jax'] = None"


# As a process that is killed: nothing is closed.
KILL = "print(*[p.pid for p in multiprocessing.active_children()], flush=True); os._exit(0)"


def run_program(folder, data_dir, *, num_workers, end="pass"):
    """The lines that the program prints."""
    program = folder / "program.py"
    options = dataclasses.asdict(OPTIONS) | {"num_workers": num_workers}
    text = PROGRAM.format(forbid=FORBID_JAX, options=options, arguments=TRAIN, end=end)
    program.write_text(text)
    done = subprocess.run(
        [sys.executable, str(program), str(data_dir)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_program_needs_neither_jax_nor_tensorflow(split, voc_data_dir, tmp_path, num_workers):
    """With workers they end, too, where the program is killed."""
    lines = run_program(tmp_path, voc_data_dir, num_workers=num_workers, end=KILL)
    expected = [batch["index"].tolist() for batch in train(split, 3)]
    assert lines[:2] == [str(expected), "False"]
    workers = list(map(int, lines[2].split()))
    assert len(workers) == num_workers
    deadline = time.monotonic() + 300
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
