"""Pictures of tensors: a matrix as colours, and the distribution of the values.

matplotlib is imported inside the functions, because it is an optional dependency.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ggcp_schema.errors import UsageError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect.histogram import distribution, rebin
from ggcp_schema.inspect.matrix import Matrix, Window, pool
from ggcp_schema.inspect.text import escape, short_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS = 512  # of each side of a matrix, at most; of larger ones each pixel is a mean
BINS = 192


def write_picture(place: str, tensors: Mapping[str, Tensor], values: object, *, format: str) -> None:
    """Write a picture of a tensor, given by its name. It is read twice, and not by `values`: its range comes first."""
    ((name, tensor),) = tensors.items()
    source = os.path.basename(os.fsdecode(tensor.source.path))
    figure = plot(tensor, f"{escape(source)}: {escape(name)} {list(tensor.shape[::-1])}")
    figure.savefig(place, format=format, metadata={"Date": None} if format == "svg" else None)


def plot(tensor: Tensor, title: str) -> Figure:
    """Return a figure of a tensor: its histogram, and a matrix also as an image.

    A matrix is shown in numpy's order of dimensions, in colours from blue to red, which stand for four times its root
    mean square below and above zero. The tensor is read twice, in constant memory. Raises `UsageError` if matplotlib
    is missing, or the tensor has no finite values.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("drawing pictures needs the matplotlib package", "pip install matplotlib") from error

    found = distribution(tensor, lambda found: None)
    stats = found.stats
    if stats is None or stats.min is None or stats.max is None or stats.rms is None:
        raise UsageError(f"{tensor.path} has no finite values to draw")
    is_matrix = len(tensor.shape) == 2
    figure = Figure(figsize=(10, 5) if is_matrix else (6, 4), layout="constrained")
    axes = figure.subplots(1, 1 + is_matrix, squeeze=False)[0]
    if is_matrix:
        _draw_matrix(figure, axes[0], tensor, 4 * stats.rms or 1.0)
    if found.counts:
        axes[-1].stairs(rebin(found.counts, BINS), np.linspace(stats.min, stats.max, BINS + 1), fill=True)
    else:
        axes[-1].stairs([stats.finite], [stats.min - 0.5, stats.min + 0.5], fill=True)
    axes[-1].set_yscale("log")
    axes[-1].set_xlabel(
        f"value; RMS {short_number(stats.rms)}, mean {short_number(stats.mean)}, std {short_number(stats.std)}"
    )
    axes[-1].set_ylabel("elements")
    figure.suptitle(title, parse_math=False)
    return figure


def _draw_matrix(figure: Any, axes: Any, tensor: Tensor, largest: float) -> None:
    columns, rows = tensor.shape
    picture = pool(Matrix(tensor), Window(0, 0, rows, columns), PIXELS, PIXELS, "mean", lambda found: None)
    image = axes.imshow(
        np.array(picture.pixels),
        cmap="RdBu_r",
        vmin=-largest,
        vmax=largest,
        aspect="auto",
        extent=(0, columns, rows, 0),
    )
    axes.set_xlabel(f"column, of {columns:,}")
    axes.set_ylabel(f"row, of {rows:,}")
    figure.colorbar(image, ax=axes, extend="both")
