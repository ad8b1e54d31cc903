"""What `--mode=check` finds in splits; the files are those of a table."""

import pytest
from PIL import Image

from oass_jax.data import check, pipeline

TABLE = """image,labels,split
a.png,cat|dog,train
b.png,cat,train
c.png,,train
d.png,dog,val
"""


@pytest.fixture
def folder(tmp_path, sample_images):
    sample_images(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
    return tmp_path


def report(folder, table=TABLE, **changes):
    (folder / "labels.csv").write_text(table)
    location = pipeline.Location(path=folder / "labels.csv")
    splits = [pipeline.open_split("csv", name, location) for name in ("train", "val")]
    return check.check_splits(splits, **{"max_boxes": 1, "num_threads": 2} | changes)


def test_counts_and_sizes(folder):
    lines, problems = report(folder)
    assert problems == []
    table = [line.split() for line in lines]
    assert ["train", "3", "1.00", "1", "8", "9", "10"] in table
    assert ["val", "1", "1.00", "0", "11", "11", "11"] in table
    assert ["cat", "2", "0"] in table
    assert ["dog", "1", "1"] in table
    assert any("images from 'image'" in line for line in lines)


def test_splits_of_one_name_are_not_mixed_up(folder):
    splits = []
    for name, rows in (("one", "a.png,cat\nb.png,dog\n"), ("two", "c.png,cat|dog\n")):
        (folder / f"{name}.csv").write_text(f"image,labels\n{rows}")
        location = pipeline.Location(path=folder / f"{name}.csv")
        splits.append(pipeline.open_split("csv", "all", location))
    lines, problems = check.check_splits(splits, max_boxes=1, num_threads=1)
    table = [line.split() for line in lines]
    assert ["all", "2", "1.00", "0", "8", "8", "9"] in table
    assert ["all", "1", "2.00", "0", "10", "10", "10"] in table
    assert problems == []


def test_labels_that_are_not_known_are_counted(folder):
    lines, _ = report(folder, "image,cat,dog,split\na.png,-1,1,train\nb.png,1,0,train\nd,0,1,val\n")
    assert ["cat", "1", "+1", "ignored", "0"] in [line.split() for line in lines]


def test_problems_name_file_and_line(folder):
    (folder / "b.png").write_bytes(b"no image")
    (folder / "c.png").write_bytes((folder / "c.png").read_bytes()[:-30])
    lines, problems = report(folder)
    assert [problem.partition(" cannot be decoded")[0] for problem in problems] == [
        "b.png (labels.csv, line 3)",
        "c.png (labels.csv, line 4)",
    ]
    assert ["train", "3", "1.00", "1", "8", "8", "8"] in [line.split() for line in lines]


def test_an_image_in_two_splits_is_a_problem_and_twice_in_one_a_warning(folder):
    # Other bytes, the same pixels.
    Image.open(folder / "a.png").save(folder / "d.bmp")
    Image.open(folder / "b.png").save(folder / "c.png", compress_level=1)
    lines, problems = report(folder, TABLE.replace("d.png", "d.bmp"))
    assert problems == [
        "d.bmp (labels.csv, line 5) of val is the same image as a.png (labels.csv, line 2) of "
        "train: remove one"
    ]
    number = lines.index("warning: 1 images are there twice in one split:")
    pair = "  c.png (labels.csv, line 4) and b.png (labels.csv, line 3)"
    assert lines[number + 1 :] == [pair]


def test_problems_are_counted_and_all_shown():
    assert check.summarize([]) == ["no problems"]
    assert check.summarize(["x"]) == ["1 problem:", "  x"]
    lines = check.summarize([str(n) for n in range(25)])
    assert lines == ["25 problems:", *(f"  {n}" for n in range(25))]
