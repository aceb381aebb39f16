"""Figures of representations: t-SNE colored by domain (figure 4 of the paper), similarities of classes (A.1 and A.2).

A gallery shows projections, on which the loss and the clusterings are computed. Encoder features are outputs of a ReLU
and have no negative cosine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.collections import PathCollection

from mdssl.config.presets import place_flags
from mdssl.errors import InputError
from mdssl.figures import lambdas, style
from mdssl.figures.kind import FigureKind, Storage, Words, with_trials
from mdssl.figures.scores import SettingsGroup
from mdssl.figures.style import METHODS
from mdssl.leaderboard.names import plain_name

if TYPE_CHECKING:
    from mdssl.evaluate.representations import Representations

LAYER = "projection"
PERPLEXITY = 30
MOST_IMAGES = 300
"""Images of each domain in t-SNE, whose time grows with their number."""
MOST_MATRICES = 8
"""Panels over λ1 alone."""
MOST_LEVELS = {"lambda1": 3, "lambda2": 4}
"""Values of each in a grid of panels."""
_WIDEST_PANEL = 2.6
_MOST_DIMENSIONS = 50
"""PCA first reduces the features to this number, as in the paper of t-SNE, to save time."""


@style.styled()
def embedding(
    samples: Mapping[str, Mapping[str, np.ndarray]], *, layer: str = "encoder", seed: int = 0, width: float = style.PAGE
) -> style.Figure:
    """Figure 4: t-SNE of representations colored by domain, one panel for each encoder.

    Args:
        samples: by panel title, by domain, (n, width) representations of images. Each panel is embedded on its own.
        layer: of the representations, for the note.
        seed: of t-SNE.
        width: of the figure, inches; less where there are few panels.

    Raises:
        ValueError: no samples, or too few for t-SNE, or some that are not finite.
    """
    if not samples:
        raise InputError("an embedding needs samples of at least one encoder; none are given.")
    per_row = style.equal_rows(len(samples), int(width / 1.6 / style.scale()))
    width = min(width, _WIDEST_PANEL * per_row)
    height = width / per_row / style.scale()
    figure, axes = style.panels(len(samples), width=width, height=height, per_row=per_row)
    handles: dict[str, Any] = {}
    domains = list(dict.fromkeys(domain for panel in samples.values() for domain in panel))
    for axis, (title, panel) in zip(axes, samples.items(), strict=True):
        points = _tsne(title, np.concatenate([np.asarray(part, dtype=np.float32) for part in panel.values()]), seed)
        which = np.repeat([domains.index(domain) for domain in panel], [len(part) for part in panel.values()])
        # In slices of a random order, because otherwise the last domain would cover all others.
        order = np.random.default_rng(seed).permutation(len(points))
        for slice_number, part in enumerate(np.array_split(order, 8)):
            for number, domain in enumerate(domains):
                own = points[part[which[part] == number]]
                marker, color = style.MARKERS[number % len(style.MARKERS)], style.COLORS[number % len(style.COLORS)]
                marks: dict[str, Any] = dict(
                    s=5, alpha=0.75, linewidth=0, zorder=2 + slice_number, marker=marker, color=color
                )
                handles.setdefault(style.dataset_label(domain, 40), axis.scatter(*own.T, **marks))
        axis.set_title(style.wrapped(title, style.fits(width / len(axes))), loc="left")
        axis.grid(False)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set(visible=True, color="#cccccc")
    style.legend(figure, handles)
    for handle in figure.legends[0].legend_handles:
        assert isinstance(handle, PathCollection)
        handle.set_sizes([18])
        handle.set_alpha(1)
    counts = sorted({len(part) for panel in samples.values() for part in panel.values()})
    span = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    style.note(figure, f"t-SNE of {layer} features, {span} test images of each domain. Its axes have no unit.")
    return figure


def _tsne(title: str, rows: np.ndarray, seed: int) -> np.ndarray:
    """(n, 2) t-SNE of ``rows`` (n, width)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(rows) < 4:
        raise InputError(f"t-SNE of {title!r} needs at least 4 images, and there are {len(rows)}.")
    if not np.isfinite(rows).all():
        raise InputError(f"the representations of {title!r} contain values that are not finite; probe the trial again.")
    # On a busy machine threads wait for each other, and many take ten times as long as one.
    with threadpool_limits(1):
        rows = PCA(min(_MOST_DIMENSIONS, *rows.shape), random_state=seed).fit_transform(rows)
        return TSNE(perplexity=min(PERPLEXITY, (len(rows) - 1) / 3), init="pca", random_state=seed).fit_transform(rows)


@style.styled()
def class_similarity(
    matrices: Mapping[str, np.ndarray],
    groups: Mapping[str, int],
    *,
    per_row: int | None = None,
    width: float = style.PAGE,
) -> style.Figure:
    """Figures A.1 and A.2: cosine similarities between class-averaged representations, a heat map for each encoder.

    All panels have one scale, from -1 to 1; those of the paper have one each.

    Args:
        matrices: by panel title, (C, C) similarities.
        groups: number of classes by domain, in the order of rows and columns; C in total.
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
                f"the similarities of {title!r} have shape {np.shape(matrix)}; {len(groups)} domains with "
                f"{classes} classes in total require ({classes}, {classes})."
            )
    per_row = per_row or min(len(matrices), max(1, int(width / 1.65 / style.scale())))
    names = [style.dataset_label(name, 14) for name in groups]
    # In inches, of the longest line: left of the first panel, and below each panel if names are upright.
    scale = style.scale()
    length = 0.055 * scale * max(len(line) for name in names for line in name.split("\n"))
    width = min(width, _WIDEST_PANEL * per_row + 0.9 * scale + length)
    panel = (width - 0.9 * scale - length) / per_row
    is_upright = length > min(groups.values()) / classes * panel
    titles = {title: style.wrapped(title.replace(" = ", "\xa0=\xa0"), style.fits(1.4 * panel)) for title in matrices}
    lines, of_titles = (1 + max(text.count("\n") for text in texts) for texts in (names, titles.values()))
    height = 0.11 + 0.12 * of_titles + panel / scale + (length / scale if is_upright else 0.12 * lines)
    figure, axes = style.panels(len(matrices), width=width, height=height, per_row=per_row, square=True)
    sizes = np.array(list(groups.values()))
    ends = np.cumsum(sizes)
    for number, (axis, (title, matrix)) in enumerate(zip(axes, matrices.items(), strict=True)):
        image = axis.imshow(np.asarray(matrix), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        axis.grid(False)
        for end in ends[:-1]:
            axis.axhline(end - 0.5, color=style.INK, linewidth=0.8)
            axis.axvline(end - 0.5, color=style.INK, linewidth=0.8)
        middles = ends - sizes / 2 - 0.5
        axis.set_xticks(middles, names, rotation=90 if is_upright else 0)
        axis.set_yticks(middles, [""] * len(names) if number % per_row else names, va="center")
        axis.tick_params(length=0)
        axis.spines[:].set_visible(True)
        axis.set_title(titles[title], loc="left")
    rows = -(-len(matrices) // per_row)
    bar = figure.colorbar(image, ax=axes, shrink=0.9 / rows**0.5, aspect=20, pad=0.02, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.set_label("cosine similarity")
    bar.outline.set_visible(False)
    return figure


def _find_similarities(group: SettingsGroup, storage: Storage) -> Iterator[tuple[dict[str, Any], Words]]:
    """Figures A.1 and A.2 of the largest mixture: the first seed of MDSSL at each λ."""
    mixture = group.largest_mixture()
    mdssl = group.rows[(group.rows["train_mixture"] == mixture) & (group.rows["method"] == "mdssl")]
    trials = mdssl.sort_values("seed").drop_duplicates(["lambda1", "lambda2"])
    if trials.empty:
        raise InputError("class similarities need a trial of method mdssl, and the leaderboard has none.")
    trials = trials.sort_values(["lambda1", "lambda2"], ascending=[False, True])
    reasons: list[InputError] = []
    for name, paper, moves, varied in (
        ("lambda1", "A.1", "λ1 falls", trials[trials["lambda2"] == 0]),
        ("lambda2", "A.2", "λ2 grows", trials[trials["lambda2"] > 0]),
    ):
        try:
            if len(varied):
                yield _similarities(name, paper, moves, varied, mixture, storage)
        except InputError as error:
            # Representations of the other figure may be complete.
            reasons.append(error)
    if reasons:
        raise reasons[0]


def _similarities(
    name: str, paper: str, moves: str, varied: pd.DataFrame, mixture: str, storage: Storage
) -> tuple[dict[str, Any], Words]:
    from mdssl.evaluate.similarity import stacked, summarize

    shown, per_row = varied.iloc[style.evenly(range(len(varied)), MOST_MATRICES)], None
    if name == "lambda2":
        shown = varied
        for level, most in MOST_LEVELS.items():
            shown = shown[shown[level].isin(style.evenly(np.sort(varied[level].unique()), most))]
        rows, columns = (shown[level].nunique() for level in MOST_LEVELS)
        per_row = columns if len(shown) == rows * columns and columns > 1 else None
    trials = {
        f"λ1 = {trial['lambda1']:g}, λ2 = {trial['lambda2']:g}": trial["trial_id"] for _, trial in shown.iterrows()
    }
    panels = _read(storage, trials, mixture)
    maps = {title: stacked(panel, LAYER) for title, panel in panels.items()}
    groups = {domain: len(kept.classes) for domain, kept in next(iter(panels.values())).items()}
    parts = []
    for title, found in maps.items():
        means = summarize(found.matrix, found.groups)._asdict()
        values = [f"{where} {means[where]:.2f}" for where in ("within", "across") if not np.isnan(means[where])]
        parts.append(f"{title}: {', '.join(values)}")
    counts = ", ".join(f"{domain} ({count} classes)" for domain, count in groups.items())
    some = f"{len(maps)} of {len(varied)} values of λ. " if len(maps) < len(varied) else ""
    matrices = {title: found.matrix for title, found in maps.items()}
    data = dict(matrices=matrices, groups=groups, per_row=per_row if len(maps) == len(shown) else None)
    at = f"as {moves}" if len(maps) > 1 else f"at {next(iter(maps))}"
    return data, Words(
        title=f"Similarity of class means {at}, trained on {mixture}",
        caption=f"Corresponds to figure {paper} of the paper: cosine similarity between class-averaged projections of "
        f"test images; all panels have one scale. {some}One seed.",
        alt=f"Mean cosine similarity of different classes within and across domains, of {counts}. {'; '.join(parts)}.",
        name=name,
    )


def _find_embedding(group: SettingsGroup, storage: Storage) -> Iterator[tuple[dict[str, Any], Words]]:
    """Figure 4 of the largest mixture: one trial of each method, at the same λ."""
    mixture = group.largest_mixture()
    kept, at = lambdas.one_of_each_method(group.rows, mixture)
    trials = kept[kept["train_mixture"] == mixture].sort_values("seed").drop_duplicates("method").set_index("method")
    shown = {METHODS[method].label: trials["trial_id"][method] for method in METHODS if method in trials.index}
    samples = {
        # Samples are in the order of the test split, which may be that of the classes.
        title: {
            domain: kept.layers[LAYER].sample[style.evenly(range(len(kept.rows)), MOST_IMAGES)]
            for domain, kept in panel.items()
        }
        for title, panel in _read(storage, shown, mixture).items()
    }
    shows_mdssl = any(method.label in samples for method in METHODS.values() if method.weighs_domains)
    at = at if shows_mdssl else ""
    shares = [f"{title}: {_nearest_of_own_domain(panel):.0f} %" for title, panel in samples.items()]
    words = Words(
        title=f"Latent space, trained on {mixture}",
        caption="Corresponds to figure 4 of the paper: t-SNE of projections of test images, colored by domain, each "
        f"panel separately.{at} One seed.",
        alt=f"Points of {', '.join(mixture.split('+'))}, colored by domain. Share of images whose nearest neighbor by "
        f"cosine is of their own domain: {'; '.join(shares)}.",
    )
    yield dict(samples=samples, layer=LAYER), words


def _nearest_of_own_domain(panel: Mapping[str, np.ndarray]) -> float:
    """Percentage of rows with a nearest neighbor of their own domain."""
    rows = np.concatenate(list(panel.values())).astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    domain = np.repeat(np.arange(len(panel)), [len(part) for part in panel.values()])
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    return 100 * (domain[similarity.argmax(axis=1)] == domain).mean()


def _read(storage: Storage, trials: Mapping[str, str], mixture: str) -> dict[str, dict[str, Representations]]:
    """Read representations by panel title and domain, of the trials that have them for all domains.

    Args:
        trials: trial ids by panel title.
    """
    files = with_trials(storage, "representations")
    from mdssl.evaluate import representations

    domains = {plain_name(domain): domain for domain in mixture.split("+")}
    panels = {}
    for title, trial_id in trials.items():
        found = representations.of_trial(files, trial_id, list(domains))
        if len(found) == len(domains):
            panels[title] = {domains[name]: kept for name, kept in found.items()}
    if not panels:
        raise InputError(
            f"none of the selected trials on {mixture} has representations of all its domains; `mdssl probe "
            f"{next(iter(trials.values()))} --evaluate {' '.join(domains)}{place_flags(files)}` adds those of one "
            "trial."
        )
    return panels


SIMILARITIES = FigureKind(
    "class-similarity", _find_similarities, lambda data, **width: class_similarity(**data, **width)
)
EMBEDDING = FigureKind("embedding", _find_embedding, lambda data, **width: embedding(**data, **width))
