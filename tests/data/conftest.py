import os

import pytest

from oass_jax.data import pipeline

REAL_DATA = os.environ.get("OASS_TEST_DATA")


@pytest.fixture(scope="session", params=["synthetic", *(["real"] if REAL_DATA else [])])
def voc_manual_dir(request, tmp_path_factory, voc_files, write_tar):
    """A folder to prepare voc/2012 from: a tiny tar, and the sample of photographs if given."""
    folder = tmp_path_factory.mktemp(f"manual_{request.param}")
    if request.param == "real":
        for name, link in (
            ("voc2012_sample.tar", "voc2012_sample.tar"),
            ("train_aug_sample.txt", "train_aug.txt"),
        ):
            (folder / link).symlink_to(os.path.abspath(os.path.join(REAL_DATA, name)))
    else:
        write_tar(folder / "any_name.tar", voc_files())
        (folder / "train_aug.txt").write_text("".join(f"2011_00000{n}\n" for n in range(1, 5)))
    return folder


@pytest.fixture(scope="session")
def voc_data_dir(voc_manual_dir, tmp_path_factory):
    """Where voc/2012 is prepared from `voc_manual_dir`."""
    data_dir = tmp_path_factory.mktemp("prepared")
    pipeline.open_split(
        "voc/2012", "val", pipeline.Location(data_dir=data_dir, manual_dir=voc_manual_dir)
    )
    return data_dir
