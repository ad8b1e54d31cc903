"""Growth against the law it should follow, as a picture."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from oass_jax.errors import UserError


def require() -> None:
    """Asks for matplotlib before anything is measured.

    Raises:
      UserError: it is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--out draws, too: pip install -r benchmarks/requirements.txt")


def growth(
    path: Path,
    x: Sequence[float],
    measured: Sequence[float],
    law: Callable[[np.ndarray], np.ndarray],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    law_label: str,
) -> None:
    """Draws measured points and the law as a line, from zero, and writes the file.

    Args:
      path: an image file; its folder is made.
      x: what grows.
      measured: medians.
      law: x -> the law's value, drawn from the first x to the last.
      title: what was measured.
      xlabel: with its unit.
      ylabel: with its unit.
      law_label: the law in words or symbols.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.8, 3.2), layout="constrained")
    between = np.linspace(min(x), max(x), 100)
    axes.plot(between, law(between), color="0.6", label=law_label)
    axes.plot(x, measured, "o", color="C0", label="measured, median")
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.set_ylim(0, 1.1 * max(np.max(law(between)), np.max(measured)))
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
