from pathlib import Path

from oass_jax.errors import nearest, nearest_path

ROOT = Path(__file__).parents[1]


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


def test_errors_are_worded_in_one_place():
    files = [path for name in ("oass_jax", "benchmarks") for path in ROOT.glob(f"{name}/**/*.py")]
    assert len(files) > 50
    wording = [path.name for path in files if '"error: ' in path.read_text()]
    assert wording == ["command_line.py"]
