"""A folder of images and a labels.csv, from the check to the trained network, by commands."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from oass_jax import main
from oass_jax.run.restore import open_run, transfer
from oass_jax.run.workdir import Workdir
from oass_jax.training import loop
from tests.commands import call, complete_checkpoints, leaves, mesh_of, rows

# A quarter has a cat, the others a dog or a bird.
LABELS = [("cat|dog", "dog", "bird", "dog|bird")[n % 4] for n in range(24)]


@pytest.fixture(scope="module")
def images(tmp_path_factory, sample_images):
    folder = tmp_path_factory.mktemp("images")
    sample_images(folder, [f"{n:02}.png" for n in range(len(LABELS))])
    write_list(folder, LABELS)
    return folder


def write_list(folder, labels):
    lines = [f"{n:02}.png,{label}\n" for n, label in enumerate(labels)]
    (folder / "labels.csv").write_text("image,labels\n" + "".join(lines))


def words(images, *changes, config="own"):
    return [
        f"--config={config}",
        f"--config.data.path={images}/labels.csv",
        "--config.num_epochs=2",
        "--config.batch_size=8",
        "--config.data.canvas_px=32",
        "--config.augment.image_px=32",
        "--config.augment.long_side_px=(24, 32)",
        "--config.eval.image_px=32",
        "--config.eval.batch_size=8",
        "--config.eval.every_epochs=1",
        "--config.eval.num_pictures=0",
        "--config.keypoint.margin_cells=1",
        "--config.checkpoint.every_steps=1",
        "--config.model.encoder=resnet_tiny",
        "--config.model.dtype=float32",
        "--config.model.pretrained=",
        "--config.log_every_steps=1",
        *changes,
    ]


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "own"
    done = call(words(images, f"--workdir={folder}"))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def copied(images, trained, tmp_path):
    """Images and a run on them that a test may change."""
    folder = shutil.copytree(images, tmp_path / "images")
    run = shutil.copytree(trained[0], tmp_path / "run")
    config = run / "config.json"
    config.write_text(config.read_text().replace(str(images), str(folder)))
    return folder, run


def test_a_list_gives_a_network(trained, images):
    folder, printed = trained
    lines = printed.splitlines()
    assert (
        f"{images}/labels.csv: images from 'image', labels from 'labels', separated by '|'" in lines
    )
    assert any("of 24 were drawn, stratified by label" in line for line in lines)
    assert "supervised" in lines[0]
    split = [line.split(",") for line in (folder / "split.csv").read_text().splitlines()]
    val = [image for image, name in split if name == "val"]
    assert 3 <= len(val) <= 7
    predictions = (folder / "eval" / "csv_val" / "predictions.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in predictions] == ["image", *val]
    assert (folder / "classes.txt").read_text() == "bird\ncat\ndog\n"
    assert json.loads((folder / "thresholds.json").read_text())["classes"].keys() == {
        *("bird", "cat", "dog")
    }
    checksums = np.load(folder / "checksums.npy")
    assert (checksums > 0).sum() == len(checksums) == 24 - len(val)


def test_the_split_of_a_run_stays_wherever_its_images_are(copied):
    images, run = copied
    split = (run / "split.csv").read_text()
    moved = images.rename(images.parent / "moved")
    again = words(moved, f"--workdir={run}", "--config.num_epochs=3")
    done = call([*again, "--config.data.val_fraction=0.5"])
    assert done.returncode == 2
    assert "split.csv was drawn with other settings (data.val_fraction was 0.2, is" in done.stderr
    done = call(again)
    assert done.returncode == 0, done.stderr
    assert "resumed from the checkpoint" in done.stdout
    assert (run / "split.csv").read_text() == split
    last = complete_checkpoints(run)[-1]
    (evaluation,) = (run / "eval").iterdir()
    assert json.loads((evaluation / "summary.json").read_text())["step"] == last
    assert f"step {last}" in json.loads((run / "thresholds.json").read_text())["source"]
    # The same list in another place.
    again = moved.rename(moved.parent / "again")
    path = f"--config.data.path={again}/labels.csv"
    assert call([f"--workdir={run}", "--mode=eval", path]).returncode == 0
    assert list((run / "eval").iterdir()) == [evaluation]


def test_a_run_that_is_stopped_ends_as_one_that_is_not(images, trained, tmp_path):
    run = tmp_path / "run"
    last = complete_checkpoints(trained[0])[-1]
    shutil.copytree(trained[0], run)
    shutil.rmtree(run / "checkpoints" / str(last))
    done = call(words(images, f"--workdir={run}"))
    assert done.returncode == 0, done.stderr
    assert leaves(run, last) == leaves(trained[0], last)
    without_rates = [
        {name: value for name, value in row.items() if not name.startswith("perf/")}
        for row in (*rows(run), *rows(trained[0]))
    ]
    assert without_rates[: len(without_rates) // 2] == without_rates[len(without_rates) // 2 :]


def test_other_images_are_refused(copied):
    images, run = copied
    more = words(images, f"--workdir={run}", "--config.num_epochs=3")
    split = dict(line.split(",") for line in (run / "split.csv").read_text().splitlines())
    image = images / next(name for name, part in split.items() if part == "train")
    content = image.read_bytes()
    image.write_bytes(content + b"longer")
    done = call(more)
    assert (done.returncode, "the files of the data set have changed" in done.stderr) == (2, True)
    # As long as before, and still an image: what comes after its end is not read.
    image.write_bytes(content)
    noted = np.load(run / "checksums.npy")
    np.save(run / "checksums.npy", noted ^ np.uint32(1))
    done = call(more)
    assert done.returncode == 2
    assert "has changed since this run read it first: restore the file" in done.stderr


def test_an_evaluation_of_another_list(copied):
    images, run = copied
    (images / "new.csv").write_text("image,labels\n03.png,dog\n05,\n")
    to_new = [f"--workdir={run}", "--mode=eval", f"--config.data.path={images}/new.csv"]
    done = call([*to_new, "--config.eval.split=all"])
    assert done.returncode == 0, done.stderr
    summary = json.loads((run / "eval" / "csv-images-new_all" / "summary.json").read_text())
    assert (summary["num_images"], summary["absent"]) == (2, ["bird", "cat"])
    assert summary["thresholds_of"].startswith("csv val")
    assert summary["dataset"] == "csv/images/new"
    # Another list of that name, in a folder of that name, does not replace it.
    (images.parent / "other" / "images").mkdir(parents=True)
    other = shutil.copy(images / "new.csv", images.parent / "other" / "images" / "new.csv")
    path = [f"--config.data.path={other}", f"--config.data.image_dir={images}"]
    done = call([f"--workdir={run}", "--mode=eval", *path, "--config.eval.split=all"])
    assert done.returncode == 2
    assert f"is of another list of that name, {images}/new.csv: rename or" in done.stderr
    # A split of the same name is not that of the run either.
    before = (run / "thresholds.json").read_bytes()
    (images / "new.csv").write_text("image,labels,split\n03.png,dog,val\n05,,val\n")
    assert call(to_new).returncode == 0
    assert (run / "eval" / "csv-images-new_val" / "summary.json").is_file()
    assert (run / "thresholds.json").read_bytes() == before
    (images / "new.csv").write_text("image,labels\n03.png,doge\n")
    done = call([*to_new, "--config.eval.split=all"])
    assert done.returncode == 2
    assert "new.csv, line 2: 'doge' is none of the 3 classes: did you mean dog?" in done.stderr


def test_labels_alone_have_no_boxes(images, trained, tmp_path):
    done = call(words(images, f"--workdir={tmp_path}/run", config="own:gt_bbox"))
    assert done.returncode == 2
    assert "csv train has no boxes, which --config.keypoint.strategy=gt_bbox needs" in done.stderr
    measure = [f"--workdir={trained[0]}", "--mode=cam"]
    done = call(measure)
    assert done.returncode == 2
    assert "csv val has neither segmentation masks nor boxes" in done.stderr


def test_a_run_may_start_from_another(images, trained, tmp_path):
    other = shutil.copytree(images, tmp_path / "images")
    write_list(other, [label.replace("bird", "ant") for label in LABELS])
    start = f"--config.model.pretrained={trained[0]}"
    short = ["--config.num_epochs=0.01", "--config.seed=1"]
    done = call(words(other, f"--workdir={tmp_path}/run", start, *short))
    assert done.returncode == 0, done.stderr
    last = complete_checkpoints(trained[0])[-1]
    assert (
        f"starts from {trained[0]}, step {last}: its encoder, and its classifier for 2 of 3 classes"
        in done.stdout.splitlines()
    )
    with mesh_of(1):
        ours, theirs = (open_run(Workdir(f)) for f in (tmp_path / "run", trained[0]))
    kernels = [np.asarray(run.model["params"]["head"]["kernel"]) for run in (ours, theirs)]
    distance = np.abs(kernels[0] - kernels[1]).max(axis=0)  # after one step of warm-up
    assert ours.class_names == ("ant", "cat", "dog")
    assert distance[0] > 0.1 > 0.01 > distance[1:].max()
    encoders = (run.model["params"]["encoder"] for run in (ours, theirs))
    for mine, taken in zip(*map(jax.tree.leaves, encoders), strict=True):
        np.testing.assert_allclose(mine, taken, atol=0.01)
    wrong = [start, "--config.model.encoder=resnet18"]
    done = call(words(images, f"--workdir={tmp_path}/third", *wrong))
    assert done.returncode == 2
    assert "has the encoder resnet_tiny, this one resnet18" in done.stderr


def test_weights_of_another_encoder_are_an_error(images, trained, tmp_path):
    with mesh_of(1):
        encoder = open_run(Workdir(trained[0], writes=False)).model["params"]["encoder"]
    path = tmp_path / "weights.safetensors"
    save_file({"bn1.bias": np.asarray(encoder["bn1"]["bias"])}, path)
    done = call(words(images, f"--workdir={tmp_path}/run", f"--config.model.pretrained={path}"))
    assert done.returncode == 2
    assert "holds bn1 of the encoder resnet_tiny only in part (loaded 1 (bn1); " in done.stderr


def test_a_run_of_other_classes_gives_its_encoder(trained):
    folder = Workdir(trained[0], writes=False)
    with mesh_of(1):
        run = open_run(folder)
        variables = {name: run.model[name] for name in ("params", "batch_stats")}
        params = variables["params"]
        untrained = params | {"encoder": jax.tree.map(np.zeros_like, params["encoder"])}
        started, note = transfer(
            folder,
            variables | {"params": untrained},
            config=run.config,
            class_names=("ant", "bee", "cow"),
        )
    assert note.endswith("its encoder, and its classifier for 0 of 3 classes")
    jax.tree.map(np.testing.assert_array_equal, started["params"], params)


def test_check_counts_and_finds(images, copied, tmp_path):
    done = call(words(images, "--mode=check"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("no problems\n")
    folder, run = copied
    (folder / "07.png").write_bytes(b"no image")
    done = call(words(folder, "--mode=check", f"--workdir={run}"))
    assert done.returncode == 1
    assert "1 problem:\n  07.png (labels.csv, line 9) cannot be decoded" in done.stdout
    (folder / "08.png").unlink()
    (folder / "09.png").unlink()
    done = call(words(folder, "--mode=check"))
    assert done.returncode == 1
    assert done.stdout.count("there is no image") == 2


def test_a_dry_run_tells_the_cost_and_leaves_nothing(images, tmp_path):
    """The images that it evaluates, the first ones, need not have labels."""
    label = ["" if 16 <= n < 20 else label for n, label in enumerate(LABELS)]
    lines = [f"{n:02}.png,{label[n]},{'train' if n < 16 else 'val'}\n" for n in range(24)]
    path = images / "split.csv"
    path.write_text("image,labels,split\n" + "".join(lines))
    run = tmp_path / "run"
    given = words(images, "--mode=dryrun", f"--workdir={run}", "--config.num_epochs=0")
    done = call([*given, f"--config.data.path={path}", "--config.eval.batch_size=2"])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.endswith(" x cpu") for line in lines)
    assert lines[-5].startswith("a step: ")
    assert lines[-4].endswith(" for 8 images")
    assert lines[-1].startswith("the run: 120 steps, 60 evaluations: ")
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_a_sentence(images, tmp_path, monkeypatch):
    def exhausted(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.")

    monkeypatch.setattr(loop, "train_and_evaluate", exhausted)
    done = call(words(images, f"--workdir={tmp_path}"))
    assert done.returncode == 2
    assert "the device has too little memory: lower --config.batch_size" in done.stderr


def test_a_bug_keeps_its_traceback(images, tmp_path, monkeypatch):
    def broken(*args):
        raise jax.errors.JaxRuntimeError("INTERNAL: no idea")

    monkeypatch.setattr(loop, "train_and_evaluate", broken)
    with pytest.raises(jax.errors.JaxRuntimeError):
        main.main(words(images, f"--workdir={tmp_path}"))
