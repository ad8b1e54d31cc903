"""Tables as people write them, and every mistake in them by file and line."""

import codecs

import numpy as np
import pytest
from PIL import Image

from oass_jax.data import pipeline
from oass_jax.data.sources import csv_list
from oass_jax.data.sources.image_list import ListError
from oass_jax.errors import UserError

NAMES = ("a.png", "b.png", "c.png", "d.png")


@pytest.fixture
def folder(tmp_path, sample_images):
    return sample_images(tmp_path, NAMES)


def write(folder, text, encoding="utf-8"):
    path = folder / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def opened(folder, text, split="all", **location):
    location = pipeline.Location(path=write(folder, text), **location)
    return pipeline.open_split("csv", split, location)


def table(split):
    """File name -> its labels, those that are not known with a question mark."""
    rows = {}
    for index, label in enumerate(split.labels()):
        present = [name for name, value in zip(split.class_names, label, strict=True) if value == 1]
        unknown = [name for name, v in zip(split.class_names, label, strict=True) if v == -1]
        rows[split.filename(index)] = present + [f"{name}?" for name in unknown]
    return rows


LABELS = {"a.png": ["cat", "dog"], "b.png": ["dog"], "c.png": [], "d.png": ["cat"]}


@pytest.mark.parametrize(
    "text",
    [
        "image,labels\na.png,cat|dog\nb.png,dog\nc.png,\nd.png,cat\n",
        "image,labels\na.png,cat;dog\nb.png,dog\nc.png,\nd.png,cat\n",
        'image,labels\na.png,"cat, dog"\nb.png,dog\nc.png,\nd.png,cat\n',
        "fname,labels\na.png,cat dog\nb.png,dog\nc.png,\nd.png,cat\n",
        "image_name,tags\na,dog cat\nb,dog\nc,\nd,cat\n",
        "Image;Labels\r\na.png;cat|dog\r\n\r\nb.png;dog\r\nc.png;\r\nd.png;cat\r\n",
        "filename\tclasses\na.png\tcat, dog , cat\nb.png\tdog\nc.png\t\nd.png\tcat\n",
        "image,dog,cat\na.png,1,1\nb.png,1,0\nc.png,0,0\nd.png,0.0,1.0\n",
        "image,cat,dog,width\na.png,True,true,8 p\nb.png,False,1,8 p\nc.png,0,0,8 p\nd.png,1,0,\n",
        ",image,id,dog,cat\n0,a.png,1,1,1\n1,b.png,2,1,0\n2,c.png,3,0,0\n3,d.png,4,0,1\n",
        "id,image,labels,photographer\n1,a.png,cat dog,x\n2,b.png,dog,y\n3,c.png,,\n4,d.png,cat,\n",
        "\ufeffimage,labels\na.png,cat|dog\nb.png,dog\nc.png,\nd.png,cat",
        codecs.BOM_UTF16_LE + "image,labels\na,cat|dog\nb,dog\nc,\nd,cat".encode("utf-16-le"),
    ],
)
def test_one_content_in_many_forms(folder, text):
    split = opened(folder, text)
    rows = {name.removesuffix(".png") + ".png": labels for name, labels in table(split).items()}
    assert {name: sorted(labels) for name, labels in rows.items()} == LABELS
    assert sorted(split.class_names) == ["cat", "dog"]
    assert not split.has_boxes


def test_what_was_taken_for_what_is_one_line(folder):
    text = "fname,labels,is_valid,size\na.png,cat dog,False,1\nb.png,dog,True,2\n"
    note, *others = opened(folder, text, split="train").notes
    assert note.endswith(
        "labels.csv: images from 'fname', labels from 'labels', separated by spaces, splits from "
        "'is_valid'; not read: size"
    )
    assert others == [
        "'cat dog' was read as 2 labels: separate labels by | if names have several words",
        "warning: train has no negative of cat, dog",
    ]


def test_minus_one_is_ignored_in_batches_too(folder):
    text = "image,cat,dog\na.png,1,-1\nb.png,0,1\nc.png,-1.0,0\n"
    split = opened(folder, text)
    assert table(split) == {"a.png": ["cat", "dog?"], "b.png": ["dog"], "c.png": ["cat?"]}
    options = pipeline.ReadOptions(
        canvas_px=10, max_boxes=1, difficult="negative", num_workers=0, num_threads=0, cache=False
    )
    share = {"batch_size": 3, "process_index": 0, "process_count": 1}
    (batch,) = pipeline.eval_batches(split, options, **share)
    assert batch["label"].tolist() == [[1, -1], [0, 1], [-1, 0]]
    assert batch["size"].tolist() == [[6, 8], [7, 9], [8, 10]]
    stored = np.asarray(Image.open(folder / "b.png"))
    np.testing.assert_array_equal(batch["image"][1, :7, :9], stored)
    assert len(set(batch["checksum"].tolist())) == 3


def test_names_of_several_words_where_something_else_separates(folder):
    text = "image,labels\na.png,traffic light|dog\nb.png,traffic light\n"
    assert table(opened(folder, text)) == {
        "a.png": ["dog", "traffic light"],
        "b.png": ["traffic light"],
    }


def test_a_separator_at_the_end_makes_one_label_of_any_text(folder):
    split = opened(folder, 'image,labels\na.png,pot|pan\nb.png,"pan, large|"\n')
    assert table(split) == {"a.png": ["pan", "pot"], "b.png": ["pan, large"]}
    assert not any("empty label" in note for note in split.notes)


def test_paths_may_be_those_of_windows(folder):
    (folder / "img").mkdir()
    (folder / "c.png").rename(folder / "img" / "c.png")
    (folder / "d.png").rename(folder / "img\\d.png")
    text = "image,labels\nimg\\c.png,cat\nimg\\d.png,dog\n"
    split = opened(folder, text)
    assert table(split) == {"img\\c.png": ["cat"], "img\\d.png": ["dog"]}
    assert [record["image"].name for record in split.source] == ["c.png", "img\\d.png"]


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("a.png,traffic light\nb.png,fire hydrant\n", ("fire hydrant", "traffic light")),
        ('a.png,"bear, brown"\nb.png,cat\n', ("bear, brown", "cat")),
        ("a.png,\"['cat', 'dog']\"\nb.png,\"['dog']\"\nc.png,[]\n", ("cat", "dog")),
        ('a.png,"[""cat"", ""dog""]"\nb.png,"[""dog""]"\n', ("cat", "dog")),
    ],
)
def test_words_of_a_name_are_no_labels(folder, text, classes):
    assert opened(folder, "image,labels\n" + text).class_names == classes


def test_a_guess_is_reported(folder):
    """Where each line has another set of labels, nothing tells words of a name from labels."""
    notes = opened(folder, 'image,labels\na.png,"cat, dog"\nb.png,"bird, fish"\n').notes
    assert "'cat, dog' was read as one label: separate labels by | if it is more" in notes
    assert not any("was read as" in note for note in opened(folder, "image,labels\na.png,x").notes)


def test_a_second_column_of_splits_is_no_class(folder):
    text = "image,split,is_valid,cat,dog\na.png,train,0,1,0\nb.png,val,1,0,1\n"
    assert opened(folder, text, split="train").class_names == ("cat", "dog")


def test_other_case_and_a_tilde_are_names_of_files(folder, sample_images):
    sample_images(folder, ["~a.png"])
    text = "Unnamed: 0,image,cat\n0,A.PNG,1\n1,~a.png,0\n"
    assert [r["image"].name for r in opened(folder, text).source] == ["a.png", "~a.png"]


@pytest.mark.parametrize("listed", ["K\u00e4fer.png", "Ka\u0308fer.png", "K\u00e4fer"])
@pytest.mark.parametrize("name", ["K\u00e4fer.png", "Ka\u0308fer.png"])
def test_an_umlaut_is_one_character_or_two(folder, sample_images, name, listed):
    """A Mac takes them apart in the names of files."""
    sample_images(folder, [name])
    split = opened(folder, f"image,labels\na.png,cat\n{listed},dog\n")
    assert [r["image"].name for r in split.source] == ["a.png", name]


def test_splits_of_the_table(folder):
    text = (
        "image,labels,subset\na.png,cat,train\nb.png,dog,VALID\nc.png,dog,test\nd.png,cat,train\n"
    )
    train = opened(folder, text, split="train")
    assert (list(table(train)), train.class_names) == (["a.png", "d.png"], ("cat", "dog"))
    assert train.siblings == ("train", "val", "test")
    assert train.split_list == ""
    assert list(table(opened(folder, text, split="val"))) == ["b.png"]
    assert list(table(opened(folder, text, split="test"))) == ["c.png"]
    assert "warning: test has no positive of 1 classes: cat" in opened(folder, text, "test").notes


def test_the_classes_of_a_network_are_kept(folder):
    path = write(folder, "image,labels\na.png,dog\nb.png,dog\n")
    location = pipeline.Location(path=path)
    split = pipeline.open_split("csv", "all", location, class_names=("ant", "cat", "dog"))
    np.testing.assert_array_equal(split.labels(), [[0, 0, 1], [0, 0, 1]])
    with pytest.raises(ListError, match=r"line 2: 'dog' is none of the 2 classes: did you mean do"):
        pipeline.open_split("csv", "all", location, class_names=("do", "cat"))


def test_images_elsewhere(folder, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    split = opened(lists, "path,labels\na.png,cat\nb.png,dog\n", image_dir=folder)
    assert len(split) == 2
    split = opened(lists, f"path,labels\n{folder}/a.png,cat\n../b.png,dog\n")
    assert [record["image"].name for record in split.source] == ["a.png", "b.png"]


MISTAKES = {
    "no image column": (
        "picture,labels\na.png,cat\n",
        "has no column of images: its first line is",
    ),
    "no labels column": ("image,name\na.png,tom\n", "has neither a column of labels"),
    "no column at all": ("image\na.png\n", "has neither a column of labels"),
    "empty file": ("", "has no lines: it needs a header"),
    "header alone": ("image,labels\n", "has no lines"),
    "column twice": ("image,labels,Labels\na.png,cat,dog\n", "has the column 'labels' twice"),
    "wrong number": ("image,labels\na.png,cat\nb.png,cat,dog\n", r"line 3: it has 3 columns, the"),
    "open quote": ('image,labels\na.png,"cat\nb.png,dog\n', r"labels\.csv, line 3: unexpected end"),
    "quote inside": ('image,labels\na.png,"cat"x\n', r"line 2: ',' expected after '\"'"),
    "separators": (
        "image,labels\na.png,cat|dog\nb.png,cat;dog\n",
        r"line 3: 'cat;dog' has another .*: if it is one label, end it with \|",
    ),
    "not 0 or 1": ("image,cat,dog\na.png,1,0\nb.png,2,1\n", r"line 3: '2' in the column 'cat' is"),
    "empty cell": ("image,cat,dog\na.png,1,\nb.png,0,1\n", r"line 2: '' in the column 'dog' is"),
    "split": (
        "image,labels,split\na.png,cat,trian\n",
        r"line 2: 'trian' in the column 'split' is no",
    ),
    "no split": (
        "image,labels,split\na.png,cat,\n",
        r"line 2: '' in the column 'split' is no split",
    ),
    "is_valid": ("image,labels,is_valid\na.png,cat,maybe\n", r"line 2: 'maybe' in the column"),
    "no name": ("image,labels\na.png,cat\n,dog\n", r"line 3: the name of the image is empty"),
    "no label": ("image,labels\na.png,\nb.png,\n", "holds no label: there is nothing to learn"),
    "twice": ("image,labels\na.png,cat\nb.png,dog\na.png,dog\n", r"line 4: a\.png is listed twice"),
    "twice by stem": ("image,labels\na.png,cat\na,dog\n", r"line 3: a is listed twice, see labels"),
    "backslash": (
        "image,labels\na.png,cat\nimg\\b.png,dog\n",
        r"line 3: there is no image .*/img/b\.png",
    ),
    "line break": (
        'image,"cat\nfish",dog\na.png,1,0\nb.png,0,1\n',
        r"the class 'cat\\nfish' holds a line break",
    ),
    "missing": ("image,labels\na.png,cat\nx.png,dog\n", r"line 3: there is no image .*x\.png"),
    "folder": ("image,labels\na.png,cat\nsub,dog\n", r"line 3: there is no image .*sub"),
    "all missing": (
        "image,labels\nx.png,cat\ny.png,dog\n",
        r"none of the 2 images .*data\.image_dir",
    ),
    "ambiguous": (
        "image,labels\nboth,cat\na.png,dog\n",
        r"both may be both\.jpg or both\.png: add",
    ),
    "latin-1": ("image,labels\na.png,caf\xe9\n".encode("latin-1"), r"line 2, is not UTF-8"),
    "binary": (b"image,labels\na.png,\0cat\n", "is no text: save the table as CSV"),
    "no val": (
        "image,labels,split\na.png,cat,train\n",
        r"has no split 'val': there are train, all",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_a_sentence_with_file_and_line(mistake, folder, sample_images):
    sample_images(folder, ["both.png", "both.jpg", "sub/e.png"])
    text, sentence = MISTAKES[mistake]
    with pytest.raises(UserError, match=sentence) as error:
        opened(folder, text, split="val" if mistake == "no val" else "all")
    assert "\n" not in str(error.value)


def test_all_mistakes_are_counted_and_kept(folder):
    text = "image,labels\na.png,cat\nx.png,dog\ny.png,dog\nz.png,dog\n"
    with pytest.raises(ListError, match=r"and 2 more: --mode=check lists them") as error:
        opened(folder, text)
    assert [problem.partition(":")[0] for problem in error.value.problems] == [
        f"labels.csv, line {line}" for line in (3, 4, 5)
    ]


def test_what_one_can_live_with_is_a_warning(folder):
    text = "image,labels\na.png,cat\nb.png,Cat\nc.png,\nd.png,cat\n"
    notes = opened(folder, text).notes
    assert "warning: 'Cat' and 'cat' are two classes: they differ in case only" in notes
    assert "all: 1 of 4 images have no label, such as labels.csv, line 4" in notes
    notes = opened(folder, "image,labels\na.png,cat\nb.png,\n").notes
    assert "warning: there is one class only, cat" in notes
    split = opened(folder, "image,labels\na.png,cat|dog\nb.png,cat||dog\nc.png,|cat\nd.png,\n")
    assert split.class_names == ("cat", "dog")
    warning = "warning: 2 lines have an empty label, such as labels.csv, line 3"
    assert warning in split.notes


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*none\.csv: check --config\.data\.path"):
        pipeline.open_split("csv", "all", pipeline.Location(path=tmp_path / "none.csv"))
    with pytest.raises(
        UserError, match=r"csv needs the path of its list: set --config\.data\.path"
    ):
        pipeline.open_split("csv", "all", pipeline.Location())
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        pipeline.open_split("csv", "all", pipeline.Location(path=tmp_path))
    write(tmp_path, "image,labels\na.png,cat\n")
    location = pipeline.Location(path=tmp_path / "labels.csv", image_dir=tmp_path / "images")
    with pytest.raises(
        UserError, match=r"there is no folder .*images: check --config\.data\.image_dir"
    ):
        pipeline.open_split("csv", "all", location)


def test_reading_does_not_look_for_images(tmp_path):
    images = csv_list.read(write(tmp_path, "image,labels\nx.png,cat|dog\n")).images
    assert [(i.filename, i.where, i.labels) for i in images] == [
        ("x.png", "labels.csv, line 2", ("cat", "dog"))
    ]


def test_labels_of_a_part_are_evenly_spaced(folder):
    split = opened(folder, "image,labels\na.png,cat\nb.png,dog\nc.png,\nd.png,cat|dog\n")
    assert split.labels(count=2).tolist() == [[1, 0], [1, 1]]
    assert split.labels(count=4).tolist() == split.labels().tolist()
