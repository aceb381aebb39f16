"""Selection of rows by conditions, as written on a command line (``lambda1=0.9,1.0``, ``top1>40``, ``seed!=0``), and
of trials by their validation scores."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import pandas as pd
from pandas.api import types

from mdssl.errors import InputError, check_name, some_of
from mdssl.leaderboard.columns import STATUSES
from mdssl.leaderboard.names import NAMED, plain_name
from mdssl.leaderboard.notes import TAGS
from mdssl.tables.compare import common_datasets, latest_images
from mdssl.tables.statistics import row_means

SELECTED_ON_TEST = "Best scores are selected on the test split and therefore optimistic, the more so with more trials."
NO_VALIDATION = "No trial has a validation score (val_top1; `mdssl probe` adds it), so none is selected as the best."
NULL = "null"
"""The word for a missing value."""

_WRITTEN = re.compile(r"\s*([\w.-]+?)\s*(!=|>=|<=|=|>|<)\s*(.*?)\s*", re.DOTALL)
_HOW = 'Write NAME=VALUE, NAME=VALUE,VALUE or NAME!=VALUE, and with >, >=, < or <= in quotes: "top1>40".'
_COMMA = re.compile(r",(?![^()]*\))")
"""Not those of a probe's name: sgd(learning_rate=0.03,epochs=30)."""
_LISTED = 12


class Condition(NamedTuple):
    """A condition on the column ``name``: ``sign`` is =, !=, >, >=, < or <=.

    ``values`` are the texts as given, one for an order, and for = and != any number.
    """

    name: str
    sign: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{','.join(self.values)}"


def parse_condition(text: str) -> Condition:
    """Read one condition. Raises ``ValueError`` if it is invalid."""
    found = _WRITTEN.fullmatch(text)
    if not found or not found[3]:
        raise InputError(f"{text!r} is not a valid condition. {_HOW}")
    name, sign, values = found.groups()
    parts = tuple(part.strip() for part in _COMMA.split(values)) if sign in ("=", "!=") else (values,)
    return Condition(name, sign, parts)


def matching(rows: pd.DataFrame, conditions: Sequence[Condition], *, statuses: Collection[str] = ()) -> pd.DataFrame:
    """Return the rows that meet all ``conditions``.

    A missing value meets ``=null``, and ``!=`` of any other value, but no order.

    Args:
        rows: of the leaderboard, best with all their settings (`mdssl.leaderboard.board.with_settings`).
        conditions: of their columns.
        statuses: values of ``status`` that are valid even if no row has them.

    Raises:
        ValueError: an unknown column, a value of another type, or, for = and !=, a value that no row has, which is
            probably a typo.
    """
    kept = pd.Series(True, index=rows.index)
    for condition in conditions:
        check_name("leaderboard column", condition.name, rows.columns)
        kept &= _meets(rows[condition.name], condition, statuses)
    return rows[kept]


def _meets(column: pd.Series, condition: Condition, statuses: Collection[str]) -> pd.Series:
    if condition.sign in ("=", "!="):
        given = [_value(column, text, condition) for text in condition.values if text != NULL]
        # The plain name selects a part or a variant of a dataset, too.
        names = column.map(plain_name, na_action="ignore") if condition.name in NAMED else column
        if condition.name == TAGS:
            # One of several tags is enough.
            names = column.str.split().explode()
        checked = [value for value in given if condition.name != "status" or value not in statuses]
        _check_there(names if condition.name == TAGS else pd.concat([column, names]), checked, condition)
        equal = column.isin(given) | names.isin(given).groupby(level=0).any().reindex(column.index)
        if NULL in condition.values:
            equal |= column.isna()
        return equal if condition.sign == "=" else ~equal
    if not (types.is_numeric_dtype(column) or types.is_datetime64_any_dtype(column)) or types.is_bool_dtype(column):
        raise InputError(f"condition {str(condition)!r} needs an order, but {condition.name} has none; use = or !=.")
    value = _value(column, condition.values[0], condition)
    order = {">": column.gt, ">=": column.ge, "<": column.lt, "<=": column.le}[condition.sign]
    return order(value).fillna(False).astype(bool)


def _value(column: pd.Series, text: str, condition: Condition) -> Any:
    """``text`` as a value of ``column``."""
    read: Callable[[str], Any]
    if types.is_bool_dtype(column.dropna().infer_objects()) and len(column.dropna()):
        kind, read = "true or false", {"true": True, "false": False}.__getitem__
        text = text.lower()
    elif types.is_numeric_dtype(column):
        kind, read = "a number", float
    elif types.is_datetime64_any_dtype(column):
        kind, read = "a time such as 2026-11-02T10:00", lambda text: pd.to_datetime(text, utc=True)
    else:
        return text
    try:
        return read(text)
    except (KeyError, ValueError):
        raise InputError(
            f"condition {str(condition)!r} compares {condition.name} with {text!r}; it must be {kind}, or {NULL} for "
            "a missing value."
        ) from None


def _check_there(column: pd.Series, given: Sequence[Any], condition: Condition) -> None:
    there = column.dropna().unique().tolist()
    missing = [value for value in given if value not in there]
    if not missing:
        return
    # Numbers as numbers, and texts in order of the alphabet.
    listed = [shown(value) for value in sorted(there, key=lambda value: (isinstance(value, str), value)) if value != ""]
    # A status that no row has is not another one, misspelled.
    is_status = condition.name == "status" and missing[0] in STATUSES
    close = [] if is_status else difflib.get_close_matches(shown(missing[0]), listed, n=1, cutoff=0.5)
    there_are = f". Did you mean {close[0]!r}? There are" if close and isinstance(missing[0], str) else "; there are"
    raise InputError(
        f"condition {str(condition)!r}: no row has {condition.name} {shown(missing[0])!r}{there_are}: "
        f"{some_of(listed, _LISTED) or 'none'}."
    )


def best_by_validation(rows: pd.DataFrame) -> pd.DataFrame:
    """Rank trials by their validation score, the mean of ``val_top1`` over evaluation datasets.

    Test scores play no part. The mean is over the datasets on which most trials have a validation score
    (`mdssl.tables.compare.common_datasets`), each on its latest images.

    Args:
        rows: of the leaderboard, of one training mixture and one probe. Of several layers, the encoder's count.

    Returns:
        A row per trial, best first: ``trial_id``; ``val``, in percent, null for trials that lack a validation score,
        which are last; and ``status``, ``failed`` where training or one of the scores failed. Equal trials are in the
        order of their ids.

    Raises:
        ValueError: the validation scores are of several probes.
    """
    trials = rows.drop_duplicates("trial_id").set_index("trial_id")["status"].sort_index()
    trials = trials.mask(trials.index.isin(rows.loc[rows["status"] == "failed", "trial_id"]), "failed")
    # Files of the first version have no such column.
    rows = rows if "val_top1" in rows else rows.assign(val_top1=float("nan"))
    validated = rows[rows["val_top1"].notna()]
    if "encoder" in set(validated["features"]):
        validated = validated[validated["features"] == "encoder"]
    if "eval_fingerprint" in rows:
        validated = latest_images(validated)
    probes = sorted(validated["probe"].dropna().unique())
    if len(probes) > 1:
        raise InputError(
            f"the validation scores are of several probes: {', '.join(probes)}. Keep one, "
            f"rows[rows.probe == {probes[0]!r}]."
        )
    scores = validated.groupby(["trial_id", "eval_dataset"])["val_top1"].first().unstack()
    complete = scores[common_datasets(scores)].dropna()
    means = row_means(complete, complete.notna())
    ranked = pd.DataFrame({"val": means.reindex(trials.index), "status": trials}).rename_axis("trial_id").reset_index()
    return ranked.sort_values(["val", "trial_id"], ascending=[False, True], ignore_index=True)


def shown(value: Any) -> str:
    """Format ``value`` as a user types it."""
    return f"{value:g}" if isinstance(value, float) else str(value)
