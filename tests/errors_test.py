from oass_jax.errors import nearest, nearest_path


def test_nearest_names_one_word_or_all():
    assert nearest("vall", ["val", "train"]) == "did you mean val?"
    assert nearest("qqqq", ["val", "train"]) == "there are train, val"
    assert nearest("qqqq", []) == "there are none"


def test_a_path_is_compared_by_its_name_alone(tmp_path):
    for name in ("weights.safetensors", "data"):
        (tmp_path / name).mkdir()
    assert nearest_path(tmp_path / "wieghts.safetensors") == (
        f"did you mean {tmp_path}/weights.safetensors?"
    )
    assert nearest_path(tmp_path / "nothing_like_it") == "check the path"
    assert nearest_path(tmp_path / "no" / "data") == "check the path"
