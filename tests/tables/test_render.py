"""Each format read back, and tables on a narrow terminal."""

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from mdssl.leaderboard.board import read, with_settings
from mdssl.tables.render import Measure, Table, format_for, print_table, to_bytes
from mdssl.tables.view import view

NASTY = [
    "50% & more",
    "a_b#c",
    "{x}^~",
    "back\\slash",
    "pipe | `tick`",
    "λ1 ±",
    "\x1b[2Jgone",
    "two\nlines",
    '=1+1, "x"',
]


@pytest.fixture(scope="module")
def shown(sweep_results) -> Table:
    return view(with_settings(read(sweep_results)), over_seeds=True, baseline=("simclr",))


@pytest.fixture(scope="module")
def nasty() -> Table:
    frame = pd.DataFrame({"error": NASTY, "top1": np.arange(9) + 0.05})
    measures = (Measure("a_b vs x", "top1", ("top1",), True, False),)
    return Table(frame, ("error",), measures, ("a note of eval_dataset \x1b[2J\ngone",))


def test_data_formats_keep_full_precision(shown):
    csv = pd.read_csv(io.BytesIO(to_bytes(shown, "csv")))
    parquet = pd.read_parquet(io.BytesIO(to_bytes(shown, "parquet")))
    records = pd.DataFrame(json.loads(to_bytes(shown, "json")))
    for read_back in (csv, parquet, records):
        pd.testing.assert_frame_equal(read_back, shown.frame, check_dtype=False, check_exact=True)


def test_csv_and_json_keep_user_text_unchanged(nasty):
    assert pd.read_csv(io.BytesIO(to_bytes(nasty, "csv")))["error"].tolist() == NASTY
    assert [record["error"] for record in json.loads(to_bytes(nasty, "json"))] == NASTY


def cells_of(view: Table) -> list[list[str]]:
    """The expected cells: mean, deviation, number of seeds and interval."""
    cells = []
    for _, own in view.frame.iterrows():
        texts = [own["method"], *("-" if np.isnan(own[name]) else f"{own[name]:g}" for name in ("lambda1", "lambda2"))]
        for measure in view.measures:
            mean, deviation, low, high, number, *p = (own[name] for name in measure.names)
            if np.isnan(mean):
                texts.append("-")
                continue
            sign = "+" if measure.difference else ""
            shown = f"{round(mean, 1) + 0.0:{sign}.1f} ± {deviation:.1f} ({number:.0f})"
            texts.append(f"{shown} [{low:{sign}.1f}, {high:{sign}.1f}]" + "*" * bool(p and p[0] < 0.05))
        cells.append(texts)
    return cells


def test_markdown_contains_all_cells_with_the_best_in_bold(shown):
    text = to_bytes(shown, "markdown").decode()
    table, *notes = text.rstrip("\n").split("\n\n")
    assert [note.replace("\\", "") for note in notes] == list(shown.notes) and len(notes) == 2
    header, rule, *lines = table.splitlines()
    assert len({line.count("|") for line in (header, rule, *lines)}) == 1
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [[re.sub(r"^\*\*|\*\*$|\\", "", cell) for cell in cells] for cells in found] == cells_of(shown)
    for place, measure in enumerate(shown.measures, start=len(shown.keys)):
        numbers = shown.frame[measure.names[0]].round(1)
        best = [number for number, cells in enumerate(found) if cells[place].startswith("**")]
        assert best == np.flatnonzero(numbers == numbers.max()).tolist()


@pytest.mark.parametrize("over_seeds", [False, True])
def test_a_baseline_has_no_difference_to_itself_in_any_format(sweep_results, over_seeds):
    rows = with_settings(read(sweep_results))
    # All other trials are below the baseline, so a difference of zero would be the best.
    rows["top1"] = rows["top1"].where(rows["method"] == "simclr", rows["top1"] / 10)
    table = view(rows, over_seeds=over_seeds, baseline=("simclr",))
    value = "average_vs_simclr" + "_mean" * over_seeds
    of_simclr = (table.frame["method"] == "simclr").to_numpy()
    assert table.frame[value].isna().tolist() == of_simclr.tolist()
    (place,) = [number for number, measure in enumerate(table.measures) if measure.names[0] == value]
    place += len(table.keys)
    text = {name: to_bytes(table, name).decode().splitlines() for name in ("markdown", "latex", "html")}
    cells = {
        "markdown": [line.strip("| ").split(" | ") for line in text["markdown"][2:]],
        "latex": [line.removesuffix(" \\\\").split(" & ") for line in text["latex"][4:]],
        "html": [re.findall("<td.*?>(.*?)</td>", line) for line in text["html"] if "<td" in line],
    }
    for name, lines in cells.items():
        assert {lines[row][place] for row in np.flatnonzero(of_simclr)} == {"-"}, name
    out = io.StringIO()
    print_table(table, Console(file=out, width=2000, force_terminal=True))
    assert {line.split()[-1] for line in out.getvalue().splitlines() if " simclr " in f" {line}"} == {"-"}
    assert pd.read_csv(io.BytesIO(to_bytes(table, "csv")))[value].isna().tolist() == of_simclr.tolist()
    assert pd.read_parquet(io.BytesIO(to_bytes(table, "parquet")))[value].isna().tolist() == of_simclr.tolist()
    assert [own[value] is None for own in json.loads(to_bytes(table, "json"))] == of_simclr.tolist()


def test_markdown_escapes_user_text(nasty):
    *lines, _, note = to_bytes(nasty, "markdown").decode().splitlines()
    assert note == "a note of eval\\_dataset \\\\x1b\\[2J gone"
    assert len(lines) == 2 + len(NASTY)
    # Only the bars between cells are not escaped.
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    assert "\x1b" not in "".join(lines)


def test_latex_is_a_booktabs_table_with_every_cell(shown):
    text = to_bytes(shown, "latex").decode()
    begin, *lines, end, first, second = text.splitlines()
    assert [first, second] == [f"% {note}" for note in shown.notes]
    columns = len(shown.keys) + len(shown.measures)
    assert begin == f"\\begin{{tabular}}{{l{'r' * (columns - 1)}}}"
    assert end == "\\end{tabular}"
    assert (lines[0], lines[2], lines[-1]) == ("\\toprule", "\\midrule", "\\bottomrule")
    body = [line.removesuffix(" \\\\").split(" & ") for line in (lines[1], *lines[3:-1])]
    assert {len(cells) for cells in body} == {columns}
    assert body[0][1:3] == ["$\\lambda_1$", "$\\lambda_2$"]
    plain = [[re.sub(r"\\textbf\{(.*)\}", r"\1", cell) for cell in cells] for cells in body[1:]]
    plain = [[cell.replace("$\\pm$", "±").replace("$-$", "-") for cell in cells] for cells in plain]
    assert plain == cells_of(shown)


def test_latex_escapes_user_text(nasty):
    *lines, note = to_bytes(nasty, "latex").decode().splitlines()
    assert note == "% a note of eval_dataset \\x1b[2J gone"
    assert len(lines) == 6 + len(NASTY)
    texts = "\n".join(line.removesuffix(" \\\\") for line in lines[4:-2])
    assert "50\\% \\& more" in texts and "a\\_b\\#c" in texts
    ours = (
        r"\\textbackslash\{\}|\\textasciitilde\{\}|\\textasciicircum\{\}|\\textbar\{\}|\\textbf\{|\\[&%$#_{}]|\$\\pm\$"
    )
    ours += r"|\$\\lambda_\d\$| & "
    assert not set(re.sub(ours, "", texts).replace("}", "", 1)) & set("\\&%$#_^~{")


def wide(settings: int, datasets: int) -> Table:
    draw = np.random.default_rng(0)
    names = [f"setting_{'long_' * (number % 3)}{number}" for number in range(settings)]
    columns = {"train_mixture": ["cifar10+stl10+svhn", "a", "b+c", "eurosat", "chestxray+cifar100"]}
    columns |= {name: draw.integers(10, 10 ** min(2 + number, 7), 5) for number, name in enumerate(names)}
    scores = [f"builtin-dataset-{number}" for number in range(datasets)]
    for name in scores:
        columns |= {
            f"{name}_mean": draw.uniform(10, 99, 5),
            f"{name}_sd": draw.uniform(0, 9, 5),
            f"{name}_low": draw.uniform(-9, 9, 5),
            f"{name}_high": draw.uniform(100, 109, 5),
            f"{name}_seeds": [3] * 5,
        }
    measures = [
        Measure(name, "top1", tuple(name + end for end in ("_mean", "_sd", "_low", "_high", "_seeds")), True, False)
        for name in scores
    ]
    return Table(pd.DataFrame(columns), ("train_mixture", *names), tuple(measures), ())


@pytest.mark.parametrize(("settings", "datasets"), [(6, 12), (2, 1), (25, 2), (1, 40)])
def test_a_table_fits_the_terminal_and_shows_every_number(settings, datasets):
    table = wide(settings, datasets)
    console = Console(file=io.StringIO(), width=80)
    print_table(table, console)
    text = console.file.getvalue()
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    for measure in table.measures:
        for mean, deviation, low, high in zip(*(table.frame[name] for name in measure.names[:4]), strict=True):
            assert f"{mean:.1f} ± {deviation:.1f} (3)" in text and f"[{low:.1f}, {high:.1f}]" in text
    for name in table.keys[1:]:
        assert all(re.search(rf"\b{value}\b", text) for value in table.frame[name])


def printed(frame: pd.DataFrame, *keys: str, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    print_table(Table(frame, keys, (), ()), console)
    return console.file.getvalue().splitlines()


LONG = " ".join(f"the worker on 10.0.0.{number} died" for number in range(20)) + " at /" + "x" * 100


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_long_text_is_wrapped_beside_its_trial(width):
    frame = pd.DataFrame({"trial_id": ["a" * 12, "b" * 12], "error": [LONG, "short"]})
    _, rule, *lines = printed(frame, "trial_id", "error", width=width)
    assert max(len(line) for line in lines) <= len(rule) <= width
    assert [line[:12].strip() for line in lines] == ["a" * 12, *[""] * (len(lines) - 2), "b" * 12]
    assert "".join(line[13:] for line in lines[:-1]).replace(" ", "") == LONG.replace(" ", "")
    # A row that is shorter than the longest row has no trailing spaces.
    assert lines[-1] == f"{'b' * 12} short"


def test_a_long_text_among_many_columns_gets_half_of_the_terminal():
    frame = pd.DataFrame({f"column_{number}": ["word" * 3] for number in range(9)} | {"error": [LONG], "n": [1]})
    lines = printed(frame, *frame)
    assert max(len(line) for line in lines) <= 80
    assert max(len(line) for line in lines if "worker" in line) >= 35
    assert {word for word in LONG.split() if len(word) < 20} <= set(" ".join(lines).split())


def test_numbers_are_never_wrapped():
    frame = pd.DataFrame({"error": [LONG], "n": [123456789012] * 1} | {f"n{i}": [10**10 + i] for i in range(9)})
    text = " ".join(printed(frame, *frame, width=40)).split()
    assert {"123456789012", *(str(10**10 + number) for number in range(9))} <= set(text)


def test_a_header_is_wrapped_only_if_it_is_wider_than_its_cells():
    frame = pd.DataFrame({"trial_id": ["a" * 12], "train_seconds_all": ["12345678901234"], "num_test": ["-"]})
    lines = printed(frame, *frame)
    assert lines[:2] == ["             train_seconds_ num_", "trial_id     all            test"]


def test_headers_keep_the_mark_of_a_partial_dataset_on_one_line_if_possible():
    frame = pd.DataFrame({"trial_id": ["a" * 12], "svhn (4,434 of 73,257)": [50.5], "n": [7]})

    def header(frame: pd.DataFrame, width: int) -> list[str]:
        lines = printed(frame, *frame, width=width)
        return lines[: next(number for number, line in enumerate(lines) if "─" in line)]

    wide = ["                          svhn  ", "trial_id     (4,434 of 73,257) n"]
    narrow = ["                   svhn  ", "                 (4,434  ", "trial_id     of 73,257) n"]
    for width, expected in {200: wide, 32: wide, 31: narrow, 25: narrow}.items():
        assert header(frame, width) == expected
    frame = frame.rename(columns={"svhn (4,434 of 73,257)": "svhn (other train images or labels) vs simclr"})
    expected = [
        "                            svhn  ",
        "             (other train images  ",
        "                      or labels)  ",
        "trial_id               vs simclr n",
    ]
    assert header(frame, 80) == expected
    # A header that is narrower than its cells is not wrapped.
    frame = pd.DataFrame({"svhn (4,434 of 73,257)": ["50.0 ± 1.2 (3 of 3 seeds)"]})
    assert header(frame, 80) == ["svhn (4,434 of 73,257)"]


def test_terminal_tables_escape_control_characters(nasty):
    text = to_bytes(nasty, "table").decode()
    assert "\x1b" not in text
    assert "\\x1b[2Jgone" in text
    assert len(text.splitlines()) == 3 + 1 + len(NASTY) + 2


@pytest.mark.parametrize(
    ("output", "asked", "expected"),
    [
        (None, None, "table"),
        ("a.TEX", None, "latex"),
        ("a.b.md", None, "markdown"),
        ("a", "csv", "csv"),
        (None, "json", "json"),
    ],
)
def test_the_format_is_given_by_its_name_or_by_the_suffix_of_the_file(output, asked, expected):
    assert format_for(output, asked) == expected


@pytest.mark.parametrize(
    ("output", "asked", "message"),
    [
        ("a.xlsx", None, "unknown suffix of --output '.xlsx'; allowed: .txt, .md.*With --format"),
        ("a.cvs", None, "Did you mean '.csv'"),
        ("a", None, "unknown suffix of --output ''"),
        ("a.csv", "latex", "do not match"),
        (None, "parquet", "cannot be printed"),
        ("a.csv", "cvs", "unknown format 'cvs'.*Did you mean 'csv'"),
    ],
)
def test_invalid_formats_are_refused(output, asked, message):
    with pytest.raises(ValueError, match=message):
        format_for(output, asked)
