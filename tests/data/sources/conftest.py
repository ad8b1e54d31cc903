import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write_images():
    """A function that writes images of different pixels, by their names, into a folder."""

    def write(folder, names):
        for number, name in enumerate(names):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full([6 + number % 3, 8, 3], number, np.uint8)
            Image.fromarray(pixels).save(path)
        return folder

    return write
