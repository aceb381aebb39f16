"""Importance of each setting of a sweep for the validation score: permutation importance of a random forest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mdssl.figures import style
from mdssl.figures.kind import FigureKind, Storage, Words, file_name
from mdssl.figures.scores import SettingsGroup
from mdssl.figures.searches import each_sweep, first_group, is_number, tried

LEAST_TRIALS = 10
FEW_TRIALS = 20
"""Below this number the figure has a warning."""
_FOLDS, _REPEATS, _TREES = 5, 5, 100


class Importance(NamedTuple):
    """By setting, most important first, ``mean`` and ``std`` in points; the share of variance that the forest explains
    in held-out trials; and the number of trials."""

    settings: pd.DataFrame
    explained: float
    trials: int
    note: str

    def warning(self) -> str:
        """Return a warning about unreliable numbers, or an empty string."""
        few = f" Warning: only {self.trials} trials; with fewer than {FEW_TRIALS} the order may be chance."
        useless = (
            " Warning: the forest predicts held-out trials no better than their mean, so these numbers are meaningless."
        )
        return (few if self.trials < FEW_TRIALS else "") + (useless if self.explained <= 0 else "")


def setting_importance(board: pd.DataFrame, *, width: float = style.PAGE) -> style.Figure:
    """Permutation importance of each setting in which the trials of a sweep differ.

    A random forest of scikit-learn predicts the validation score of each trial from its settings. In each of five folds
    it is fitted on four fifths of the trials. The importance of a setting is the increase of the error (RMSE, points)
    on the last fifth when the values of the setting are shuffled (Breiman, 2001), averaged over folds and shuffles.
    Correlated settings share their importance.

    Args:
        board: as `mdssl.leaderboard.board.read` returns it; of several sweeps, the one with most trials is drawn.
        width: of the figure, inches.

    Raises:
        ValueError: fewer than `LEAST_TRIALS` trials have a validation score, or they differ in no setting.
    """
    return _draw(_importance(first_group(each_sweep(board))), width)


def _importance(group: SettingsGroup) -> Importance:
    # sklearn takes a second to import.
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    trials, names, note = tried(group, "the importance of settings", LEAST_TRIALS)
    x, y = np.stack([_codes(trials[name]) for name in names], axis=1), trials["val"].to_numpy(dtype=float)
    rises, predicted = [], np.empty_like(y)
    for fit, held in KFold(_FOLDS, shuffle=True, random_state=0).split(x):
        forest = RandomForestRegressor(_TREES, random_state=0).fit(x[fit], y[fit])
        predicted[held] = forest.predict(x[held])
        found = permutation_importance(
            forest, x[held], y[held], scoring="neg_root_mean_squared_error", n_repeats=_REPEATS, random_state=0
        )
        rises.append(found.importances_mean)
    every = np.stack(rises, axis=1)
    settings = pd.DataFrame({"mean": every.mean(axis=1), "std": every.std(axis=1)}, index=names)
    explained = 1 - ((predicted - y) ** 2).sum() / max(((y - y.mean()) ** 2).sum(), 1e-12)
    return Importance(settings.sort_values("mean", ascending=False, kind="stable"), float(explained), len(y), note)


def _codes(values: pd.Series) -> np.ndarray:
    """Encode a setting as numbers: categories as codes, and -1 where the method does not have the setting."""
    if is_number(values):
        return values.astype(float).fillna(-1).to_numpy()
    return pd.factorize(values.astype(str).where(values.notna()), sort=True)[0].astype(float)


def _find(group: SettingsGroup, storage: Storage) -> Iterator[tuple[Importance, Words]]:
    found = _importance(group)
    listed = ", ".join(
        f"{style.setting_name(str(name))} {round(own['mean'], 2) + 0.0:.2f}" for name, own in found.settings.iterrows()
    )
    words = Words(
        title=f"Importance of settings, sweep {group.name}",
        caption=f"{_note(found)} {found.note} Correlated settings share their importance.",
        alt=f"Bars, in points: {listed}.{found.warning()}",
        name=file_name(group.name),
    )
    yield found, words


def _note(found: Importance) -> str:
    return (
        "Permutation importance: increase, in points, of the error (RMSE) of a random forest that predicts the "
        "validation score of held-out trials when one setting is shuffled. The forest explains "
        f"{max(100 * found.explained, 0):.0f} % of their variance.{found.warning()}"
    )


@style.styled()
def _draw(found: Importance, width: float = style.PAGE) -> style.Figure:
    settings = found.settings[::-1]
    figure, (axis,) = style.panels(1, width=width, height=0.45 + 0.2 * len(settings))
    look: dict[str, Any] = dict(color=style.COLORS[0], height=0.6, error_kw=dict(elinewidth=0.7, ecolor=style.INK))
    axis.barh(range(len(settings)), settings["mean"], xerr=settings["std"], **look)
    axis.axvline(0, color=style.FAINT, linewidth=0.6)
    axis.set_yticks(range(len(settings)), [style.plain(style.setting_name(str(name))) for name in settings.index])
    axis.grid(False, axis="y")
    axis.grid(True, axis="x")
    axis.set_xlabel("increase of the prediction error (points) ± one standard deviation over folds")
    style.note(figure, style.plain(f"{_note(found)} {found.note}"))
    return figure


IMPORTANCE = FigureKind("importance", _find, _draw, each_sweep)
