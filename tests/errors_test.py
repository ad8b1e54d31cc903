from oass_jax.errors import nearest


def test_nearest_names_one_word_or_all():
    assert nearest("vall", ["val", "train"]) == "did you mean val?"
    assert nearest("qqqq", ["val", "train"]) == "there are train, val"
    assert nearest("qqqq", []) == "there are none"
