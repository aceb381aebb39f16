"""Figures of representations that trials have saved: which a leaderboard can give."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd

from mdssl.errors import InputError
from mdssl.figures import in_words
from mdssl.figures.entry import Entry
from mdssl.figures.latent_space import class_similarity, embedding
from mdssl.figures.recipes import Recipe, mixtures, one_of_each_method
from mdssl.figures.style import METHODS
from mdssl.leaderboard.names import plain_name
from mdssl.storage.location import Location

LAYER = "projection"
"""Where domains are pushed apart, and clusters are found. Encoder features, which come from a ReLU, have no negative
cosine."""
Panels = dict[str, dict[str, np.ndarray]]
"""By panel, by domain, an array."""

MOST_MATRICES = 8
"""Panels over λ1 alone."""
MOST_LEVELS = {"lambda1": 3, "lambda2": 4}
"""Of each in a grid of panels."""
MOST_IMAGES = 300
"""Of each domain that t-SNE takes; its time grows with them."""


def class_similarities(recipe: Recipe, storage: str | Location | None) -> Iterator[Entry]:
    """Figures A.1 and A.2 of the mixture with most trials: MDSSL's first seed at each λ."""
    rows = recipe.rows
    mixture = _largest_mixture(rows)
    of_mdssl = rows[(rows["train_mixture"] == mixture) & (rows["method"] == "mdssl")]
    trials = of_mdssl.sort_values("seed").drop_duplicates(["lambda1", "lambda2"])
    if trials.empty:
        raise InputError("class similarities need a trial of method mdssl, and the leaderboard has none.")
    over1 = trials[trials["lambda2"] == 0].sort_values("lambda1", ascending=False)
    over2 = trials[trials["lambda2"] > 0].sort_values(["lambda1", "lambda2"], ascending=[False, True])
    lacking: list[InputError] = []
    for name, moves, paper, varied in (("lambda1", "λ1 falls", "A.1", over1), ("lambda2", "λ2 grows", "A.2", over2)):
        try:
            if len(varied):
                yield _similarities_over(name, moves, paper, varied, mixture, storage)
        except InputError as error:
            # The other figure may have all that it shows.
            lacking.append(error)
    if lacking:
        raise lacking[0]


def _similarities_over(
    name: str, moves: str, paper: str, varied: pd.DataFrame, mixture: str, storage: str | Location | None
) -> Entry:
    shown, per_row = (_evenly(varied, MOST_MATRICES), None) if name == "lambda1" else _grid(varied)
    means = {
        f"λ1 = {trial['lambda1']:g}, λ2 = {trial['lambda2']:g}": _read(storage, trial, mixture, "class_means")
        for _, trial in shown.iterrows()
    }
    means = _complete(means, mixture, varied)
    per_row = per_row if len(means) == len(shown) else None
    as_moves = f"as {moves}" if len(means) > 1 else f"at {next(iter(means))}"
    groups = {domain: len(part) for domain, part in next(iter(means.values())).items()}
    matrices = {title: _similarity(parts) for title, parts in means.items()}
    of = f"{len(means)} of {len(varied)} values of λ. " if len(means) < len(varied) else ""
    return Entry(
        figure="class-similarity",
        name=f"class-similarity-{name}",
        title=f"Similarity of class means {as_moves}, trained on {mixture}",
        caption=f"As the paper's figure {paper}: cosine similarity between class-averaged projections of test "
        f"images; all panels have one scale. {of}One seed.",
        alt=in_words.of_similarities(matrices, groups),
        draw=partial(class_similarity, matrices, groups, per_row=per_row),
    )


def embeddings(recipe: Recipe, storage: str | Location | None) -> Iterator[Entry]:
    """Figure 4 of the mixture with most trials: one trial of each method on it, at the same λ."""
    rows = recipe.rows
    mixture = _largest_mixture(rows)
    kept, lambdas = one_of_each_method(rows, mixture)
    trials = kept[kept["train_mixture"] == mixture].sort_values("seed").drop_duplicates("method").set_index("method")
    samples = {
        label: _read(storage, trials.loc[method], mixture, "sample")
        for method, (label, _) in METHODS.items()
        if method in trials.index
    }
    samples = {
        title: {domain: part[:MOST_IMAGES] for domain, part in parts.items()}
        for title, parts in _complete(samples, mixture, trials).items()
    }
    # Those that lack representations are not shown.
    shows_mdssl = any(METHODS[method][0] in samples for method in METHODS if method.startswith("mdssl"))
    at = f" MDSSL at λ1 = {lambdas[0]:g}, λ2 = {lambdas[1]:g}." if lambdas and shows_mdssl else ""
    yield Entry(
        figure="embedding",
        name="embedding",
        title=f"The latent space, trained on {mixture}",
        caption=f"As the paper's figure 4: t-SNE of projections of test images, coloured by domain, each "
        f"panel by itself.{at} One seed.",
        alt=in_words.of_embedding(samples),
        draw=partial(embedding, samples, layer=LAYER),
    )


def _evenly(values: pd.DataFrame | np.ndarray, most: int) -> pd.DataFrame | np.ndarray:
    """At most so many of ``values``, from end to end."""
    some = np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))
    return values.iloc[some] if isinstance(values, pd.DataFrame) else values[some]


def _grid(trials: pd.DataFrame) -> tuple[pd.DataFrame, int | None]:
    """Trials over some levels of λ1 and of λ2; and how many stand in a row of one λ1, where no pair is missing."""
    kept = trials
    for name, most in MOST_LEVELS.items():
        kept = kept[kept[name].isin(_evenly(np.sort(trials[name].unique()), most))]
    rows, columns = (kept[name].nunique() for name in MOST_LEVELS)
    return kept, columns if len(kept) == rows * columns and columns > 1 else None


def _largest_mixture(rows: pd.DataFrame) -> str:
    found = mixtures(rows)
    if not found:
        raise InputError("the leaderboard has no trial on a mixture of domains.")
    return found[0]


def _read(storage: str | Location | None, trial: pd.Series, mixture: str, which: str) -> dict[str, np.ndarray]:
    """By domain of the mixture, ``class_means`` or ``sample`` of the trial's projections."""
    if storage is None:
        raise InputError("no storage is given, so representations of trials cannot be read; gallery(board, storage).")
    from mdssl.evaluate import representations

    shown_as = {plain_name(domain): domain for domain in mixture.split("+")}
    found = representations.of_trial(storage, trial["trial_id"], list(shown_as))
    return {shown_as[domain]: getattr(kept.layers[LAYER], which) for domain, kept in found.items()}


def _complete(panels: Panels, mixture: str, trials: pd.DataFrame) -> Panels:
    """Those of ``panels`` that have all domains of the mixture; ``trials`` are those that should."""
    domains = mixture.split("+")
    complete = {title: parts for title, parts in panels.items() if set(parts) == set(domains)}
    if not complete:
        trial_id = trials["trial_id"].iloc[0]
        raise InputError(
            f"no trial on {mixture} that would be shown has saved representations of all its domains; `mdssl probe "
            f"{trial_id} --evaluate {' '.join(plain_name(mixture).split('+'))}` makes those of one."
        )
    return complete


def _similarity(parts: dict[str, np.ndarray]) -> np.ndarray:
    from mdssl.evaluate.similarity import class_similarity as cosine_similarities

    return cosine_similarities(np.concatenate(list(parts.values())))
