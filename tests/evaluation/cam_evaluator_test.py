"""--mode=cam end to end on a tiny VOC, as the words a user types."""

import csv
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from oass_jax.errors import UserError
from oass_jax.evaluation import cam_files
from oass_jax.run.workdir import Workdir
from tests.commands import call

PERSON, DOG = 14, 11
OBJECT = """<object><name>{}</name><difficult>0</difficult><bndbox><xmin>2</xmin><ymin>2</ymin>
<xmax>20</xmax><ymax>20</ymax></bndbox></object>"""
# Id -> height, width, labels, EXIF orientation, whether it has a mask. One is larger than the
# canvas of 64 pixels, one lies on its side, one shows nothing.
IMAGES = {
    "2012_000001": (40, 60, ("person",), 1, True),
    "2012_000002": (90, 60, ("person", "dog"), 1, True),
    "2012_000003": (30, 50, ("dog",), 6, True),
    "2012_000004": (33, 47, (), 1, True),
    "2012_000005": (21, 35, ("dog",), 1, False),
}
SIZES = {name: (h, w) if o == 1 else (w, h) for name, (h, w, _, o, _) in IMAGES.items()}


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def mask_of(name):
    """Of the stored pixels: the classes in a corner each, void between them."""
    height, width, labels, _, _ = IMAGES[name]
    mask = np.zeros((height, width), np.uint8)
    if "person" in labels:
        mask[: height // 2, : width // 2] = PERSON + 1
    if "dog" in labels:
        mask[height // 2 :, width // 2 :] = DOG + 1
    mask[height // 2 - 1 : height // 2 + 1] = 255
    return mask


@pytest.fixture(scope="module")
def manual_dir(tmp_path_factory):
    """A VOC2012 whose split train has four masks, and main_train none."""
    files = {
        "ImageSets/Segmentation/train.txt": "\n".join(IMAGES).encode(),
        "ImageSets/Main/train.txt": b"2012_000005",
    }
    for name, (height, width, labels, orientation, has_mask) in IMAGES.items():
        rng = np.random.default_rng(height)
        pixels = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        files[f"JPEGImages/{name}.jpg"] = encoded(image, "JPEG", exif=exif)
        objects = "".join(map(OBJECT.format, labels))
        files[f"Annotations/{name}.xml"] = f"<annotation>{objects}</annotation>".encode()
        if has_mask:
            mask = encoded(Image.fromarray(mask_of(name)), "PNG")
            files[f"SegmentationClass/{name}.png"] = mask
    folder = tmp_path_factory.mktemp("manual")
    with tarfile.open(folder / "voc.tar", "w") as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(f"VOCdevkit/VOC2012/{path}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return folder


def run(folder, manual_dir, *changes, scales="(0.5, 1.0)", devices=1):
    words = [
        "--config=supervised",
        f"--workdir={folder}",
        f"--config.data.manual_dir={manual_dir}",
        f"--config.data.data_dir={manual_dir.parent / 'prepared'}",
        "--config.data.split=train",
        "--config.data.canvas_px=64",
        "--config.batch_size=4",
        "--config.num_epochs=1",
        "--config.augment.image_px=64",
        "--config.augment.long_side_px=(48, 64)",
        "--config.model.encoder=resnet_tiny",
        "--config.model.dtype=float32",
        "--config.model.pretrained=",
        "--config.optimizer.head_learning_rate=1e-2",
        "--config.eval.split=train",
        "--config.eval.image_px=64",
        "--config.eval.batch_size=4",
        f"--config.cam.scales={scales}",
        *changes,
    ]
    return call(words, devices=devices)


@pytest.fixture(scope="module")
def workdir(manual_dir, tmp_path_factory):
    """A trained run whose class maps were measured and exported, on four devices."""
    folder = tmp_path_factory.mktemp("run")
    trained = run(folder, manual_dir)
    assert trained.returncode == 0, trained.stderr
    done = run(folder, manual_dir, "--mode=cam", "--config.cam.export=True", devices=4)
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout)
    return folder


def exported(workdir, name):
    path = workdir / "cams" / "voc-2012_train" / f"{name}.npy"
    return np.load(path, allow_pickle=True).item()


def curve_of(workdir):
    with (workdir / "cams" / "voc-2012_train" / "thresholds.csv").open() as file:
        return {float(row["threshold"]): float(row["miou"]) for row in csv.DictReader(file)}


def test_maps_of_images_in_folders_have_names_of_their_own():
    names = [
        "2007_000032.jpg",
        "./cat/1.JPG",
        "dog//1.jpg",
        "/data/a.b.png",
        "scan.001",
        "scan.002",
    ]
    expected = ["2007_000032.npy", "cat%2F1.npy", "dog%2F1.npy", "%2Fdata%2Fa.b.npy"]
    expected += ["scan.001.npy", "scan.002.npy"]
    assert cam_files.map_names(names) == expected
    with pytest.raises(UserError, match=r"of a\.jpg and a\.png would both be a\.npy"):
        cam_files.map_names(["a.jpg", "b.jpg", "a.png"])
    with pytest.raises(UserError, match="is too long for the name of its class maps"):
        cam_files.map_names(["folder/" * 30 + "a.jpg"])


def test_exported_maps_have_the_form_that_irn_reads(workdir):
    folder = workdir / "cams" / "voc-2012_train"
    names = {path.name for path in folder.iterdir()}
    tables = {"summary.json", "thresholds.csv", "per_class.csv"}
    assert names == {f"{name}.npy" for name in IMAGES} | tables
    expected = {"2012_000002": [DOG, PERSON], "2012_000003": [DOG], "2012_000004": []}
    for name, (height, width) in SIZES.items():
        maps = exported(workdir, name)
        assert maps.keys() == {"keys", "cam", "high_res"}
        num = len(maps["keys"])
        assert maps["keys"].dtype == np.int64
        assert maps["keys"].tolist() == expected.get(name, maps["keys"].tolist())
        assert maps["high_res"].shape == (num, height, width)
        assert maps["cam"].shape == (num, -(-height // 4), -(-width // 4))
        for array in (maps["cam"], maps["high_res"]):
            assert array.dtype == np.float32
            peaks = array.max(axis=(1, 2), initial=0)
            assert (((peaks > 0.99) & (peaks < 1)) | (peaks == 0)).all()
    assert exported(workdir, "2012_000003")["high_res"].max() > 0.99


def iou_of_exported(workdir, threshold):
    """`[21]`, percent, as others compute it: the threshold is the background's map."""
    confusion = np.zeros((21, 21), int)
    for name in list(IMAGES)[:4]:
        maps = exported(workdir, name)
        padding = ((1, 0), (0, 0), (0, 0))
        stacked = np.pad(maps["high_res"], padding, constant_values=np.float32(threshold))
        predicted = np.append(0, maps["keys"] + 1)[stacked.argmax(axis=0)]
        truth = mask_of(name) if IMAGES[name][3] == 1 else np.rot90(mask_of(name), -1)
        counted = truth != 255
        np.add.at(confusion, (truth[counted], predicted[counted]), 1)
    hits = np.diagonal(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    return np.where(union > 0, 100 * hits / np.maximum(union, 1), np.nan)


def test_every_mean_can_be_computed_from_the_exported_maps(workdir):
    curve = curve_of(workdir)
    assert len(curve) == 100
    for threshold, miou in list(curve.items())[::7]:
        assert miou == pytest.approx(np.nanmean(iou_of_exported(workdir, threshold)), abs=1e-4)
    assert len(set(curve.values())) > 20


def test_the_summary_is_that_of_the_best_threshold(workdir):
    summary = json.loads((workdir / "cams/voc-2012_train/summary.json").read_text())
    curve = curve_of(workdir)
    assert max(curve.values()) == curve[summary["threshold"]] == round(summary["miou"], 4)
    iou = iou_of_exported(workdir, summary["threshold"])
    assert summary["iou"]["dog"] == pytest.approx(iou[DOG + 1])
    assert summary["iou"]["background"] == pytest.approx(iou[0])
    assert summary["iou"]["cat"] is None
    assert "cat" in summary["absent"]
    assert (summary["num_images"], summary["without_mask"]) == (5, 1)
    assert (summary["step"], summary["weights"], summary["flip"]) == (1, "student", True)
    assert summary["scales"] == [0.5, 1.0]


def test_the_pointing_game_can_be_computed_from_the_exported_maps(workdir):
    """The boxes are pixels 2 to 20, from 1, of the stored image; one lies on its side."""
    hits = {PERSON: [], DOG: []}
    for name, (_, width) in SIZES.items():
        maps = exported(workdir, name)
        for key, values in zip(maps["keys"], maps["high_res"], strict=True):
            y, x = np.unravel_index(values.argmax(), values.shape)
            if IMAGES[name][3] == 6:  # turned clockwise
                x = width - 1 - x
            hits[key].append(values.max() > 0 and 1 <= y < 20 and 1 <= x < 20)
    expected = np.mean([100 * np.mean(each) for each in hits.values()])
    summary = json.loads((workdir / "cams/voc-2012_train/summary.json").read_text())
    assert summary["pointing_game"] == pytest.approx(expected)
    assert (
        f"pointing game {expected:.2f} %, mean of the classes"
        in (workdir / "printed.txt").read_text()
    )


def test_tables_and_what_is_printed_agree_with_the_summary(workdir):
    folder = workdir / "cams" / "voc-2012_train"
    summary = json.loads((folder / "summary.json").read_text())
    with (folder / "per_class.csv").open() as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert len(rows) == 21
    assert float(rows["dog"]["iou"]) == round(summary["iou"]["dog"], 4)
    printed = (workdir / "printed.txt").read_text()
    assert "restored the checkpoint of step 1" in printed
    assert "4 of 5 images with a mask" in printed
    assert f"mIoU         {summary['miou']:6.2f}" in printed
    assert "`cams/DATASET_SPLIT/summary.json`" in (workdir / "README.md").read_text()


def test_one_device_and_one_scale_write_no_maps_unless_asked(workdir, manual_dir, tmp_path):
    for name in ("checkpoints", "classes.txt", "config.json"):
        (tmp_path / name).symlink_to(workdir / name)
    done = run(tmp_path, manual_dir, "--mode=cam")
    assert done.returncode == 0, done.stderr
    one_device = curve_of(tmp_path)
    assert one_device == pytest.approx(curve_of(workdir), abs=0.1)
    assert not list(tmp_path.glob("cams/*/*.npy"))
    done = run(tmp_path, manual_dir, "--mode=cam", "--config.cam.flip=False", scales="(1.0,)")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "cams/voc-2012_train/summary.json").read_text())
    assert summary["scales"] == [1.0]
    assert curve_of(tmp_path) != pytest.approx(one_device, abs=1.0)


def test_a_split_without_masks_plays_the_pointing_game(workdir, manual_dir):
    done = run(workdir, manual_dir, "--mode=cam", "--config.cam.split=main_train", scales="(1.0,)")
    assert done.returncode == 0, done.stderr
    assert "0 of 1 images with a mask" in done.stdout
    summary = json.loads((workdir / "cams/voc-2012_main_train/summary.json").read_text())
    assert summary["miou"] is None
    assert summary["pointing_game"] in (0.0, 100.0)
    assert f"pointing game {summary['pointing_game']:.2f} %, mean of the classes" in done.stdout


def test_the_small_map_is_the_mean_of_four_by_four_pixels(tmp_path):
    maps = np.arange(30, dtype=np.float32).reshape(1, 5, 6) / 30
    cam_files.write_maps(Workdir(tmp_path), tmp_path, "a.npy", np.array([3]), maps)
    small = np.load(tmp_path / "a.npy", allow_pickle=True).item()["cam"]
    rows, columns = (slice(0, 4), slice(4, None)), (slice(0, 4), slice(4, None))
    means = np.array([[maps[0, r, c].mean() for c in columns] for r in rows])
    np.testing.assert_allclose(small[0], means / (means.max() + 1e-5), rtol=1e-6)
    assert not list(tmp_path.glob("*.tmp"))
