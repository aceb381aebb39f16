"""Confusion matrices of a trial as SVG: shares of each true class, in the colors of the reader's scheme."""

from __future__ import annotations

from html import escape

import numpy as np

from mdssl.evaluate import confusion
from mdssl.evaluate.confusion import Confusion, class_scores, matrix_of
from mdssl.report.folder import Picture
from mdssl.storage.location import Location
from mdssl.terminal import printable

KIND = "confusion"

MOST_CLASSES = 120
"""Of a dataset with more classes, the `_WORST` with the most errors are drawn."""
_WORST = 60
_CELLS = ((12, 34), (25, 20), (50, 13), (MOST_CLASSES, 9))
"""Up to this number of classes, the side of a cell in pixels."""
_NUMBERS_UP_TO = 12
"""Number of classes up to which cells have their percentage."""
_LEVELS, _STRONG_ABOVE = 8, 5
"""Shades, and the level above which numbers need the color of the page."""
_LONGEST_NAME = 22
_CONFUSIONS_NAMED = 6
_LETTER = 0.62
"""Width of a letter, as a share of the size of its font."""

_STYLE = """
text { font-family: system-ui, sans-serif; fill: #1a1a1a; }
.page { fill: #ffffff; } .frame { fill: none; stroke: #8a8a8a; } .right { fill: #00507f; } .wrong { fill: #a33d00; }
.strong { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e6e4; }
  .page { fill: #161719; } .frame { stroke: #8a8a8a; } .right { fill: #7cc4f0; } .wrong { fill: #f0975c; }
  .strong { fill: #161719; }
}
"""


def draw_confusions(trial_dir: Location, pages: Location, trial_id: str) -> list[Picture]:
    """Write an SVG into ``pages`` for each confusion matrix of the trial.

    Raises:
        ValueError: the file of the matrices is damaged.
    """
    return [
        _draw(found, pages, f"{trial_id}-confusion-{number}.svg")
        for number, found in enumerate(confusion.read(trial_dir))
    ]


def _draw(found: Confusion, pages: Location, file: str) -> Picture:
    whole, names = matrix_of(found), [_short(name) for name in found["classes"]]
    wrong = whole.sum(axis=1) - np.diag(whole)
    shown = np.arange(len(whole))
    if len(whole) > MOST_CLASSES:
        shown = np.sort(np.argsort(-wrong, kind="stable")[:_WORST])
    shares = whole[np.ix_(shown, shown)] / np.maximum(whole.sum(axis=1), 1)[shown, None]
    svg, width, height = _svg(shares, [names[number] for number in shown])
    (pages / file).write_bytes(svg.encode())
    title = f"{printable(found['dataset'])}, {found['features']}, {printable(found['probe'])}"
    scores = class_scores(whole)
    top1 = 100 * np.diag(whole).sum() / whole.sum()
    words = [
        f"Top-1 {top1:.1f} %, balanced accuracy {scores.balanced_accuracy:.1f} %, macro-F1 {scores.macro_f1:.1f} %."
    ]
    if found["seeds"] > 1:
        words.append(f"Predictions of {found['seeds']} seeds together.")
    if len(shown) < len(whole):
        words.append(f"Shown: the {len(shown)} of {len(whole)} classes with the most errors.")
    confused = _most_confused(whole, names)
    frequent = f"Most frequent confusions: {'; '.join(confused)}." if confused else "No test image is confused."
    return Picture(
        file=file,
        kind=KIND,
        width=width,
        height=height,
        title=title,
        caption=" ".join(
            [*words, "Rows are true classes, columns predicted ones; a cell is a share of its row.", frequent]
        ),
        alt=" ".join([f"Confusion matrix of {title}.", *words, frequent]),
    )


def _svg(shares: np.ndarray, names: list[str]) -> tuple[str, int, int]:
    """The picture of (C, C) ``shares``, and its width and height in pixels."""
    count = len(names)
    cell = next(side for most, side in _CELLS if count <= most)
    font = min(cell - 1, 12)
    margin = round(max(map(len, names)) * font * _LETTER) + 26
    side = count * cell
    size = margin + side + 8
    # The root tells small shares apart, of which most cells off the diagonal are.
    levels = np.ceil(np.sqrt(shares) * _LEVELS).astype(int)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" width="{size}" height="{size}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{size}" height="{size}"/>',
        f'<g transform="translate({margin} {margin})">',
    ]
    for level in range(1, _LEVELS + 1):
        for kind, chosen in (("right", np.eye(count, dtype=bool)), ("wrong", ~np.eye(count, dtype=bool))):
            rows, columns = np.nonzero((levels == level) & chosen)
            # One path for all cells of a color: a hundred classes have thousands.
            path = "".join(f"M{x * cell} {y * cell}h{cell}v{cell}h-{cell}z" for y, x in zip(rows, columns, strict=True))
            if path:
                parts.append(f'<path class="{kind}" fill-opacity="{level / _LEVELS:g}" d="{path}"/>')
    parts.append(f'<rect class="frame" width="{side}" height="{side}"/>')
    for number, name in enumerate(names):
        at = number * cell + cell / 2
        text = f'font-size="{font}" dominant-baseline="central">{escape(name)}</text>'
        parts.append(f'<text x="-6" y="{at:g}" text-anchor="end" {text}')
        parts.append(f'<text transform="translate({at:g} -6) rotate(-90)" {text}')
    if count <= _NUMBERS_UP_TO:
        for row, column in zip(*np.nonzero(levels), strict=True):
            strong = ' class="strong"' if levels[row, column] > _STRONG_ABOVE else ""
            parts.append(
                f'<text{strong} x="{column * cell + cell / 2:g}" y="{row * cell + cell / 2:g}" text-anchor="middle" '
                f'font-size="11" dominant-baseline="central">{100 * shares[row, column]:.0f}</text>'
            )
    parts.append(f'<text x="{-margin + 4}" y="{-margin + 14}" font-size="11">true ↓ predicted →</text></g></svg>')
    return "\n".join(parts), size, size


def _most_confused(matrix: np.ndarray, names: list[str]) -> list[str]:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS_NAMED]
    found = []
    for true, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True):
        images, of = int(wrong[true, predicted]), int(matrix[true].sum())
        if images:
            found.append(f"{names[true]} as {names[predicted]} {100 * images / of:.0f} % ({images:,} of {of:,})")
    return found


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
