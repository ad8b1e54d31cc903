import errno
import json
import resource
import shutil
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from oass_jax.errors import DivergedError, UserError
from oass_jax.run import checkpoint_record
from oass_jax.run.checkpoint import MODEL, OPTIMIZER, Checkpoints

INPUT = {"seed": 0, "batch_size": 4}


def state(value, dtype=jnp.float32):
    return {
        MODEL: {"params": {"w": jnp.full((64, 64), value, dtype)}, "batch_stats": {}},
        OPTIMIZER: {"step": jnp.array(value, jnp.int32)},
    }


def like(tree):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        jax.eval_shape(lambda: tree),
    )


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=2)
    yield checkpoints
    checkpoints.close()


def save(checkpoints, *steps, val_map=None):
    for step in steps:
        checkpoints.save(state(step), step=step, fingerprint=INPUT, val_map=val_map)
    checkpoints.wait()


def restore(checkpoints, fingerprint=INPUT, tree=None):
    tree = state(0) if tree is None else tree
    steps = checkpoints.steps()[::-1]
    return checkpoints.restore(like(tree), steps=steps, fingerprint=fingerprint)[:2]


def test_restores_the_last(checkpoints):
    save(checkpoints, 1, 2, 3)
    restored, step = restore(checkpoints)
    assert step == 3
    assert (np.asarray(restored[MODEL]["params"]["w"]) == 3).all()


def test_keeps_the_last_two_and_the_best(tmp_path, checkpoints):
    for step, val_map in [(1, 10.0), (2, 30.0), (3, 20.0), (4, None), (5, 25.0)]:
        save(checkpoints, step, val_map=val_map)
    again = Checkpoints(tmp_path / "checkpoints", keep_last=2)
    save(again, 6)
    assert again.steps() == [2, 5, 6]
    assert again.best_step() == 2
    again.close()


def test_a_run_without_evaluation_has_no_best(checkpoints):
    save(checkpoints, 1)
    save(checkpoints, 2, val_map=float("nan"))
    assert checkpoints.best_step() is None


@pytest.mark.parametrize("val_map", [0.0, 0.5])
def test_the_lowest_evaluation_is_better_than_none(val_map, checkpoints):
    save(checkpoints, 1, val_map=val_map)
    save(checkpoints, 2)
    assert checkpoints.best_step() == 1


def test_a_step_is_saved_once(checkpoints):
    save(checkpoints, 1, val_map=50.0)
    save(checkpoints, 1)
    assert checkpoints.best_step() == 1


def test_an_evaluation_made_up_for_is_noted_and_nothing_is_saved_again(tmp_path, checkpoints):
    """A kill at that moment would leave no checkpoint where it is the only one."""
    given = {"step": 1, "fingerprint": INPUT, "unlogged": {"steps": 2}}
    checkpoints.save(state(1), **given, val_map=None, evaluation_due=True)
    checkpoints.wait()
    model = tmp_path / "checkpoints" / "1" / "model"
    before = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    found = checkpoints.restore(like(state(0)), steps=[1], fingerprint=INPUT)
    assert found.evaluation_due
    assert checkpoints.best_map() is None
    checkpoints.save(state(1), **given, val_map=50.0)
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == before
    found = checkpoints.restore(like(state(0)), steps=[1], fingerprint=INPUT)
    assert (found.evaluation_due, found.unlogged) == (False, {"steps": 2})
    assert (checkpoints.best_step(), checkpoints.best_map()) == (1, 50.0)
    save(checkpoints, 2, val_map=40.0)
    assert (checkpoints.best_step(), checkpoints.best_map()) == (1, 50.0)


def damage(folder, step):
    """Flips one bit in the middle of the largest file of a step."""
    files = [f for f in (folder / str(step) / "model").rglob("*") if f.is_file()]
    largest = max(files, key=lambda f: f.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(bytes(data))


def test_walks_back_over_a_flipped_bit(tmp_path, checkpoints):
    save(checkpoints, 1, 2)
    damage(tmp_path / "checkpoints", 2)
    restored, step = restore(checkpoints)
    assert step == 1
    assert (np.asarray(restored[MODEL]["params"]["w"]) == 1).all()
    assert checkpoints.steps() == [1]  # what is damaged is removed,
    save(checkpoints, 2)  # until the run comes by again
    assert restore(checkpoints)[1] == 2


@pytest.mark.parametrize("item", [MODEL, OPTIMIZER])
def test_walks_back_over_values_that_can_be_read_but_were_not_saved(item, tmp_path, checkpoints):
    """What orbax does not notice: arrays that decode, in place of those the record is about."""
    save(checkpoints, 1, 2)
    altered = state(2)
    altered[MODEL]["params"]["w"] = altered[MODEL]["params"]["w"].at[3, 5].set(2.0001)
    altered[OPTIMIZER]["step"] = jnp.array(3, jnp.int32)
    other = Checkpoints(tmp_path / "other", keep_last=1)
    other.save(altered, step=2, fingerprint=INPUT, val_map=None)
    other.close()
    replaced = tmp_path / "checkpoints" / "2" / item
    shutil.rmtree(replaced)
    shutil.copytree(tmp_path / "other" / "2" / item, replaced)
    restored, step = restore(checkpoints)
    assert step == 1
    assert (np.asarray(restored[MODEL]["params"]["w"]) == 1).all()
    assert restored[OPTIMIZER]["step"] == 1


def test_a_damaged_checkpoint_is_replaced_though_a_later_one_is_there(tmp_path, checkpoints):
    save(checkpoints, 1, val_map=50.0)
    save(checkpoints, 2, 3)
    for step in (2, 3):
        damage(tmp_path / "checkpoints", step)
    assert restore(checkpoints)[1] == 1
    save(checkpoints, 2)
    assert restore(checkpoints)[1] == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["leaves"][MODEL]["['params']['w']"][0].reverse(),
        lambda record: record["leaves"][MODEL]["['params']['w']"][0].append(1),
        lambda record: record["input"].update(seed=1),
        lambda record: record.update(val_map=99.0),
        lambda record: record.pop("checksum"),
        lambda record: record.clear(),
    ],
)
def test_walks_back_over_a_record_that_was_altered(change, tmp_path, checkpoints):
    save(checkpoints, 1, 2, val_map=50.0)
    path = tmp_path / "checkpoints" / "2" / "record" / "metadata"
    record = json.loads(path.read_text())
    record["leaves"][MODEL]["['params']['w']"][0] = [32, 128]
    change(record)
    path.write_text(json.dumps(record))
    assert checkpoints.best_step() == 1
    assert restore(checkpoints)[1] == 1


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"[1, 2]", b"null", b"{"])
def test_walks_back_over_a_record_that_is_none(text, tmp_path, checkpoints):
    save(checkpoints, 1, 2)
    (tmp_path / "checkpoints" / "2" / "record" / "metadata").write_bytes(text)
    assert restore(checkpoints)[1] == 1


def test_walks_back_over_folders_that_were_exchanged(tmp_path, checkpoints):
    save(checkpoints, 1, 2, 3)
    folder = tmp_path / "checkpoints"
    (folder / "2").rename(folder / "x")
    (folder / "3").rename(folder / "2")
    (folder / "x").rename(folder / "3")
    with pytest.raises(UserError, match=r"none of the checkpoints \[3, 2\]"):
        restore(checkpoints)


def test_numbers_that_are_not_finite_are_neither_saved_nor_restored(checkpoints, monkeypatch):
    save(checkpoints, 1)
    bad = state(2)
    bad[MODEL]["params"]["w"] = bad[MODEL]["params"]["w"].at[3, 5].set(jnp.inf)
    with pytest.raises(
        DivergedError, match=r"step 2 is not finite \(\['model'\]\['params'\]\['w'\]"
    ):
        checkpoints.save(bad, step=2, fingerprint=INPUT, val_map=None)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_record, "not_finite", lambda tree: None)
        checkpoints.save(bad, step=2, fingerprint=INPUT, val_map=None)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2]
    assert restore(checkpoints)[1] == 1


@pytest.mark.parametrize("kind", ["file", "broken link"])
def test_a_folder_that_is_none_is_reported(kind, tmp_path):
    path = tmp_path / "checkpoints"
    path.write_text("") if kind == "file" else path.symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match="checkpoints is no folder: move it away"):
        Checkpoints(path, keep_last=1)


def test_what_is_not_logged_yet_is_kept(checkpoints):
    unlogged = {"steps": 3, "sums": {"loss": 0.1 + 0.2}}
    save(checkpoints, 1)
    checkpoints.save(state(2), step=2, fingerprint=INPUT, val_map=None, unlogged=unlogged)
    checkpoints.wait()
    found = checkpoints.restore(like(state(0)), steps=[2], fingerprint=INPUT)
    assert found.unlogged == unlogged


def test_a_full_disk_is_reported_in_a_line(checkpoints, monkeypatch):
    def save_fn(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device\nand 457 lines more")

    monkeypatch.setattr(checkpoints._manager, "save", save_fn)
    with pytest.raises(UserError, match=r"could not be written to .*_EXHAUSTED: No space"):
        save(checkpoints, 1)


def test_a_save_that_failed_in_the_background_is_reported_by_whoever_closes(tmp_path):
    """A run that a signal has stopped does not wait for it otherwise."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=2)
    tree = state(1)
    tree[MODEL] = {"kernel": jax.random.normal(jax.random.PRNGKey(0), (64, 1024))}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        checkpoints.save(tree, step=1, fingerprint=INPUT, val_map=None)
        with pytest.raises(UserError, match="could not be written to"):
            checkpoints.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_walks_back_over_missing_files(tmp_path, checkpoints):
    save(checkpoints, 1, 2)
    for file in (tmp_path / "checkpoints" / "2" / "optimizer").rglob("*"):
        if file.is_file():
            file.unlink()
    assert restore(checkpoints)[1] == 1


def test_refuses_when_every_checkpoint_is_damaged(tmp_path, checkpoints):
    save(checkpoints, 1, 2)
    for step in (1, 2):
        damage(tmp_path / "checkpoints", step)
    with pytest.raises(UserError, match=r"none of the checkpoints \[2, 1\]"):
        restore(checkpoints)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes."),
        ValueError("PERMISSION_DENIED: Error opening file"),
        MemoryError(),
    ],
)
def test_what_fails_of_the_machine_costs_no_checkpoint(checkpoints, monkeypatch, error):
    save(checkpoints, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "restore", mock.Mock(side_effect=error))
        with pytest.raises(UserError, match=r"checkpoint 2 in .* cannot be read now .* is kept"):
            restore(checkpoints)
    assert restore(checkpoints)[1] == 2
    assert checkpoints.steps() == [1, 2]


def test_a_record_that_cannot_be_read_costs_no_checkpoint(tmp_path, checkpoints, monkeypatch):
    save(checkpoints, 1, val_map=50.0)
    save(checkpoints, 2, val_map=10.0)
    path = tmp_path / "checkpoints" / "1" / "record" / "metadata"
    read = Path.read_bytes, Path.read_text

    def fails(self, *args, **kwargs):
        if self == path:
            raise OSError(errno.ESTALE, "Stale file handle")
        return read[kwargs != {}](self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fails)
        patch.setattr(Path, "read_text", fails)
        save(checkpoints, 3, 4, val_map=20.0)
        with pytest.raises(UserError, match=r"checkpoint 1 in .* cannot be read now \(Stale file"):
            checkpoints.restore(like(state(0)), steps=[1], fingerprint=INPUT)
    assert checkpoints.steps() == [1, 3, 4]
    assert checkpoints.best_step() == 1


def test_refuses_other_input(checkpoints):
    save(checkpoints, 1)
    with pytest.raises(UserError, match="batch_size was 4 and is now 8"):
        restore(checkpoints, fingerprint=INPUT | {"batch_size": 8})
    with pytest.raises(UserError, match="crops was None and is now 5"):
        restore(checkpoints, fingerprint=INPUT | {"crops": 5})
    with pytest.raises(UserError, match="seed was 0 and is now None"):
        restore(checkpoints, fingerprint={"batch_size": 4})
    assert restore(checkpoints, fingerprint=None)[1] == 1  # evaluation does not continue the input


def test_other_input_is_named_before_the_network_that_follows_from_it(checkpoints):
    save(checkpoints, 1)
    other_input, other_network = INPUT | {"dataset": "voc/2007"}, state(0, jnp.bfloat16)
    with pytest.raises(UserError, match="dataset was None and is now 'voc/2007'"):
        restore(checkpoints, fingerprint=other_input, tree=other_network)


def test_accepts_what_earlier_versions_recorded_and_decides_nothing(checkpoints):
    checkpoints.save(state(1), step=1, fingerprint=INPUT | {"max_boxes": 64}, val_map=None)
    checkpoints.wait()
    assert restore(checkpoints)[1] == 1


def test_refuses_another_dtype_or_network(checkpoints):
    save(checkpoints, 1)
    with pytest.raises(UserError, match=r"not of this config.*float32.*bfloat16"):
        restore(checkpoints, tree=state(0, jnp.bfloat16))
    with pytest.raises(UserError, match="not of this config"):
        restore(checkpoints, tree=state(0) | {OPTIMIZER: {"more": jnp.zeros(3)}})


def test_a_killed_save_is_not_a_checkpoint(tmp_path, checkpoints):
    save(checkpoints, 1)
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
    again = Checkpoints(tmp_path / "checkpoints", keep_last=2)
    assert again.steps() == [1]
    again.close()


def test_read_only_needs_a_run(tmp_path):
    with pytest.raises(UserError, match="train there first"):
        Checkpoints(tmp_path / "nothing" / "checkpoints", keep_last=1, read_only=True)


def test_restores_onto_another_number_of_devices(checkpoints):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    checkpoints.save(jax.device_put(state(5), everywhere), step=5, fingerprint=INPUT, val_map=None)
    checkpoints.wait()
    restored, _ = restore(checkpoints)
    assert len(restored[MODEL]["params"]["w"].sharding.device_set) == 1
    assert (np.asarray(restored[MODEL]["params"]["w"]) == 5).all()


def test_reads_only_the_items_asked_for(tmp_path, checkpoints):
    save(checkpoints, 1)
    for file in (tmp_path / "checkpoints" / "1" / "optimizer").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    restored, _ = restore(checkpoints, tree={MODEL: state(0)[MODEL]}, fingerprint=None)
    assert restored.keys() == {MODEL}
    assert (np.asarray(restored[MODEL]["params"]["w"]) == 1).all()


def test_refuses_a_checkpoint_of_version_0_1(tmp_path, checkpoints):
    manager = ocp.CheckpointManager(tmp_path / "old", item_names=("state", "record"))
    record = {"leaves": {}, "input": INPUT}
    args = {"state": ocp.args.StandardSave(state(1)), "record": ocp.args.JsonSave(record)}
    manager.save(1, args=ocp.args.Composite(**args))
    manager.close()
    old = Checkpoints(tmp_path / "old", keep_last=2)
    with pytest.raises(UserError, match=r"^checkpoint 1 in .* was written by version 0.1"):
        restore(old)
    old.close()
