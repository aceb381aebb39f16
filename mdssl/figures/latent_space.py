"""Figures of representations: t-SNE coloured by domain (figure 4), similarities of classes (figures A.1 and A.2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mdssl.errors import InputError
from mdssl.figures.style import (
    COLOURS,
    INK,
    MARKERS,
    PAGE,
    Figure,
    dataset_label,
    legend,
    look,
    note,
    panels,
    plain,
    wrapped,
)

PERPLEXITY = 30
_WIDEST_PANEL = 2.6
"""In inches."""
_MOST_DIMENSIONS = 50
"""t-SNE's authors reduce to so many by PCA first; its result hardly changes, and its time does."""


@look()
def embedding(
    samples: Mapping[str, Mapping[str, np.ndarray]], *, layer: str = "encoder", seed: int = 0, width: float = PAGE
) -> Figure:
    """Figure 4: t-SNE of representations coloured by domain, one panel for each encoder.

    Args:
        samples: by panel title, by domain, (n, width) representations of images. Every panel is embedded by itself.
        layer: where the representations are from, for the note.
        seed: of t-SNE.
        width: of the figure, inches; less where there are few panels.

    Raises:
        ValueError: no samples, or too few for t-SNE, or some that are not finite.
    """
    if not samples:
        raise InputError("an embedding needs samples of at least one encoder; none are given.")
    per_row = min(len(samples), max(1, int(width / 1.6)))
    per_row = -(-len(samples) // -(-len(samples) // per_row))
    width = min(width, _WIDEST_PANEL * per_row)
    figure, axes = panels(len(samples), width=width, height=width / per_row, per_row=per_row)
    handles: dict[str, object] = {}
    domains = list(dict.fromkeys(domain for panel in samples.values() for domain in panel))
    for axis, (title, panel) in zip(axes, samples.items(), strict=True):
        points = _tsne(title, np.concatenate([np.asarray(part, dtype=np.float32) for part in panel.values()]), seed)
        which = np.repeat([domains.index(domain) for domain in panel], [len(part) for part in panel.values()])
        # In slices of a fixed random order, or the last domain would lie on top of all others.
        order = np.random.default_rng(seed).permutation(len(points))
        for slice_number, part in enumerate(np.array_split(order, 8)):
            for number, domain in enumerate(domains):
                own = points[part[which[part] == number]]
                marks = dict(marker=MARKERS[number % len(MARKERS)], color=COLOURS[number % len(COLOURS)])
                drawn = axis.scatter(*own.T, s=5, alpha=0.75, linewidth=0, zorder=2 + slice_number, **marks)
                handles.setdefault(domain, drawn)
        axis.set_title(wrapped(title, int(width / len(axes) * 14)), loc="left")
        axis.grid(False)
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(True)
            spine.set_color("#cccccc")
    legend(figure, list(handles.values()), [dataset_label(name, 40) for name in handles])
    for handle in figure.legends[0].legend_handles:
        handle.set_sizes([18])
        handle.set_alpha(1)
    counts = sorted({len(part) for panel in samples.values() for part in panel.values()})
    span = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    note(figure, f"t-SNE of {layer} features, {span} test images of each domain. Its axes have no unit.")
    return figure


@look()
def class_similarity(
    matrices: Mapping[str, np.ndarray], groups: Mapping[str, int], *, per_row: int | None = None, width: float = PAGE
) -> Figure:
    """Figures A.1 and A.2: cosine similarities between class-averaged representations, a heat map for each encoder.

    All panels have one scale, from -1 to 1; the paper's have one each.

    Args:
        matrices: by panel title, (C, C) similarities.
        groups: by domain, in the order of rows and columns, how many classes it has; together C.
        per_row: panels side by side.
        width: of the figure, inches; less where there are few panels.

    Raises:
        ValueError: no matrix, or one that is not (C, C).
    """
    if not matrices:
        raise InputError("class similarities need the matrix of at least one encoder; none are given.")
    classes = sum(groups.values())
    for title, matrix in matrices.items():
        if np.shape(matrix) != (classes, classes):
            raise InputError(
                f"the similarities of {title!r} have shape {np.shape(matrix)}; {len(groups)} domains with together "
                f"{classes} classes make it ({classes}, {classes})."
            )
    per_row = per_row or min(len(matrices), max(1, int(width / 1.65)))
    names = [dataset_label(name, 14) for name in groups]
    # In inches, of the longest line: to the left of the first panel, and below each if they stand upright.
    length = 0.055 * max(len(line) for name in names for line in name.split("\n"))
    width = min(width, _WIDEST_PANEL * per_row + 0.9 + length)
    panel = (width - 0.9 - length) / per_row
    upright = length > min(groups.values()) / classes * panel
    lines = max(name.count("\n") for name in names)
    height = 0.35 + panel + (length if upright else 0.12 * lines)
    figure, axes = panels(len(matrices), width=width, height=height, per_row=per_row)
    ends = np.cumsum(list(groups.values()))
    middles = ends - np.array(list(groups.values())) / 2 - 0.5
    for number, (axis, (title, matrix)) in enumerate(zip(axes, matrices.items(), strict=True)):
        image = axis.imshow(np.asarray(matrix), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        axis.grid(False)
        for end in ends[:-1]:
            axis.axhline(end - 0.5, color=INK, linewidth=0.8)
            axis.axvline(end - 0.5, color=INK, linewidth=0.8)
        axis.set_xticks(middles, names, rotation=90 if upright else 0)
        first = number % per_row == 0
        axis.set_yticks(middles, names if first else [""] * len(names), va="center")
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(True)
        axis.set_title(plain(title), loc="left")
    rows = -(-len(matrices) // per_row)
    bar = figure.colorbar(image, ax=axes, shrink=0.9 / rows**0.5, aspect=20, pad=0.02, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.set_label("cosine similarity")
    bar.outline.set_visible(False)
    return figure


def _tsne(title: str, rows: np.ndarray, seed: int) -> np.ndarray:
    """(n, 2) t-SNE of ``rows`` (n, width)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(rows) < 4:
        raise InputError(f"t-SNE of {title!r} needs at least 4 images, and there are {len(rows)}.")
    if not np.isfinite(rows).all():
        raise InputError(f"the representations of {title!r} hold values that are not finite; probe the trial again.")
    dimensions = min(_MOST_DIMENSIONS, *rows.shape)
    # On a busy machine its threads wait for each other, and many take ten times as long as one.
    with threadpool_limits(1):
        rows = PCA(dimensions, random_state=seed).fit_transform(rows)
        return TSNE(perplexity=min(PERPLEXITY, (len(rows) - 1) / 3), init="pca", random_state=seed).fit_transform(rows)
