"""How every figure looks, and its files: the same numbers give the same bytes."""

import io
from collections.abc import Callable
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

# Okabe and Ito's, which are told apart without colour vision, too.
BLUE, VERMILLION = "#0072B2", "#D55E00"
COLOURS = (VERMILLION, BLUE, "#009E73", "#F0E442", "#CC79A7", "#56B4E9", "#E69F00", "#000000")

_RC = {
    "font.family": "DejaVu Sans",  # matplotlib brings it along
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.2,
    "lines.scale_dashes": False,  # lines of two widths have the same dashes
    "text.parse_math": False,  # class names may hold a dollar sign
    "svg.hashsalt": "oass_jax",  # else names in the file are drawn anew each time
    "savefig.dpi": 200,
}


def render(draw_fn: Callable[..., Figure], *args: Any, **kwargs: Any) -> dict[str, bytes]:
    """Draws a figure in this style, whatever the user's own settings of matplotlib are.

    Args:
      draw_fn: a function of `plots`.
      *args: its arguments.
      **kwargs: its keyword arguments.

    Returns:
      Suffix of a file -> its content, `.png` and `.svg`; text is drawn as outlines.
    """
    files = {}
    with matplotlib.style.context(["default", _RC]):
        figure = draw_fn(*args, **kwargs)
        for suffix, metadata in ((".png", {}), (".svg", {"Date": None})):
            content = io.BytesIO()
            figure.savefig(content, format=suffix[1:], metadata=metadata, bbox_inches="tight")
            files[suffix] = content.getvalue()
    return files
