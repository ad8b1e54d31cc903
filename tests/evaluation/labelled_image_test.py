import pytest

from oass_jax.data import pipeline
from oass_jax.errors import UserError
from oass_jax.evaluation import labelled_image


@pytest.fixture(scope="module")
def split(digits):
    return pipeline.open_split("digit_scenes", "val[:48]", pipeline.Location(data_dir=digits))


def test_an_image_of_a_split_comes_with_what_is_known_of_it(split):
    name = split.filename(7)
    objects = split.source[7]["objects"]
    for known in (labelled_image.find(split, name), labelled_image.find(split, name[:-4])):
        assert known.name == name
        assert set(known.labels) == {split.class_names[c] for c in objects["label"]}
        assert known.boxes.tolist() == [list(map(float, box)) for box in objects["bbox"]]
        assert known.box_label.tolist() == list(objects["label"])


def test_an_image_that_there_is_not_is_reported_with_the_nearest(split):
    name = split.filename(7)
    with pytest.raises(UserError, match=f"digit_scenes val.*: did you mean {name}"):
        labelled_image.find(split, f"x{name}")
    with pytest.raises(UserError, match=f"one of those is {split.filename(0)}"):
        labelled_image.find(split, "?")


def test_some_of_a_split_are_its_first_and_last_and_those_between(split):
    labelled = [i for i, record in enumerate(split.source) if len(record["labels"])]
    found = [known.name for known in labelled_image.evenly_spaced(split, 3)]
    middle = labelled[round((len(labelled) - 1) / 2)]
    assert found == [split.filename(i) for i in (labelled[0], middle, labelled[-1])]
    assert len(list(labelled_image.evenly_spaced(split, 1000))) == len(labelled)


def test_a_file_that_cannot_be_read_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"no\.png cannot be read: No such file"):
        labelled_image.read_file(str(tmp_path / "no.png"))
