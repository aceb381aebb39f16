import os
import re
import shutil
import sys
import threading

import numpy as np
import pytest
from report_board import config, stand_in_for_figures, write_board, write_confusion, write_failed, write_trial

from mdssl.report import pictures, server
from mdssl.report.build import write_report
from mdssl.report.dashboard import Dashboard
from mdssl.report.folder import Folder
from mdssl.storage.location import Location

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    flags = ["--disable-gpu", "--disable-background-networking", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of 25 trials: two failed, and one has a score on only one dataset."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        # Worker processes would not have the stand-in.
        patch.setattr(pictures, "PARALLEL_TRIALS", 100)
        patch.setitem(sys.modules, "mdssl.figures", stand_in_for_figures())
        write_board(str(folder / "results"), seeds=2)
        scored = write_trial(str(folder / "results"), config(lambda2=0.3), {"svhn": 9.25}, macro_f1=8.0, top1_sd=0.5)
        names = [f"class {number}" for number in range(100)]
        write_confusion(str(folder / "results"), scored, np.eye(100, dtype=int) + np.eye(100, k=1, dtype=int), names)
        write_failed(str(folder / "results"), config(lambda2=0.8))
        write_report(folder / "results", folder / "report")
    return folder / "report"


@pytest.fixture
def page(browser, report):
    """The open first page. Requests other than for files, console messages and errors fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, wrong = context.new_page(), []
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((report / "index.html").as_uri())
    yield page
    context.close()
    assert wrong == []


def column(page, name: str) -> list[str]:
    """The cells of a column in the visible rows."""
    return page.evaluate(
        """name => {
            const headings = [...document.querySelectorAll('#board thead th')];
            const place = headings.findIndex((heading) => heading.dataset.column === name);
            const rows = [...document.querySelectorAll('#board tbody tr')].filter((row) => row.offsetParent !== null);
            return rows.map((row) => row.cells[place].textContent);
        }""",
        name,
    )


def button(page, name: str):
    return page.locator(f'#board th[data-column="{name}"] button')


def test_columns_sort_numerically_with_missing_values_last(page):
    button(page, "svhn").click()
    falling = column(page, "svhn")
    assert falling[-2:] == ["–", "–"]
    numbers = [float(text) for text in falling[:-2]]
    assert numbers == sorted(numbers, reverse=True)
    # Sorting as text would place 9.2 above 10.
    assert numbers[-1] < 10 < numbers[0]
    heading = page.locator('#board th[data-column="svhn"]')
    assert heading.get_attribute("aria-sort") == "descending"
    button(page, "svhn").click()
    assert column(page, "svhn") == [*(f"{number:.1f}" for number in sorted(numbers)), "–", "–"]
    button(page, "method").click()
    assert column(page, "method") == sorted(column(page, "method"))
    assert heading.get_attribute("aria-sort") is None


def test_filters_select_rows_and_update_the_count(page):
    assert page.locator("#count").text_content() == "25 rows"
    page.locator('select[data-column="method"]').select_option("simclr")
    assert column(page, "method") == ["simclr"] * 2
    assert page.locator("#count").text_content() == "2 of 25 rows"
    page.locator("#text").fill("nothing has this")
    assert page.locator("#count").text_content() == "0 of 25 rows"
    page.get_by_role("button", name="Clear").click()
    page.wait_for_function("document.getElementById('count').textContent === '25 rows'")
    page.locator("#dataset").select_option("svhn")
    assert "–" not in column(page, "svhn") and len(column(page, "svhn")) == 23
    assert not page.locator('#board th[data-column="cifar10"]').is_visible()


def test_the_url_stores_filters_columns_and_sorting(page, browser):
    page.locator('select[data-column="method"]').select_option("mdssl")
    page.locator("#text").fill("0.95")
    page.locator("#columns summary").click()
    page.get_by_label("stl10", exact=True).uncheck()
    button(page, "svhn").click()
    shown = column(page, "trial_id")
    other = browser.new_page()
    other.goto(page.url)
    assert column(other, "trial_id") == shown and 0 < len(shown) < 25
    assert not other.locator('#board th[data-column="stl10"]').is_visible()
    other.close()


def lines(page, chart: str) -> int:
    """The number of lines in a chart. Each line begins with one M."""
    return sum(
        path.count("M")
        for path in page.locator(f"{chart} path.line:not(.picked)").evaluate_all(
            "all => all.map(each => each.getAttribute('d'))"
        )
    )


def test_charts_show_the_rows_of_the_table(page):
    # Trials with all settings and scores, so that no line has a gap.
    page.locator('select[data-column="method"]').select_option("mdssl")
    page.locator('select[data-column="seed"]').select_option("1")
    assert lines(page, "#coordinates") == lines(page, "#curves-chart") == len(column(page, "seed")) == 9
    page.locator("#ranges summary").click()
    page.locator('input[data-low="lambda1"]').fill("0.95")
    assert set(column(page, "lambda1")) == {"1", "0.95"}
    assert lines(page, "#coordinates") == lines(page, "#curves-chart") == 6
    assert "lambda1.from=0.95" in page.url
    page.locator('input[data-high="lambda1"]').fill("0.96")
    assert set(column(page, "lambda1")) == {"0.95"} and lines(page, "#coordinates") == 3


def test_dragging_along_an_axis_sets_its_range_and_a_click_clears_it(page):
    names = page.locator("#coordinates .name").all_text_contents()
    numbers = [name for name in names if name not in ("method", "mixture")]
    axis = page.locator("#coordinates .brush").nth(numbers.index("λ2"))
    axis.scroll_into_view_if_needed()
    box = axis.bounding_box()
    x = box["x"] + box["width"] / 2
    page.mouse.move(x, box["y"] + box["height"])
    page.mouse.down()
    page.mouse.move(x, box["y"] + box["height"] * 0.6, steps=3)
    page.mouse.up()
    high = float(page.locator('input[data-high="lambda2"]').input_value())
    assert 0.2 < high < 0.5 and page.locator('input[data-low="lambda2"]').input_value() == "0"
    assert max(float(text) for text in column(page, "lambda2")) <= high < 0.8
    page.locator("#coordinates .brush").nth(numbers.index("λ2")).click()
    assert page.locator('input[data-high="lambda2"]').input_value() == ""


def test_arrow_keys_select_a_trial_and_highlight_it_in_both_charts(page):
    page.locator('select[data-column="method"]').select_option("simclr")
    page.locator("#coordinates").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    trial = column(page, "trial_id")[1]
    assert page.locator("#picked a").text_content() == trial
    for chart in ("#coordinates", "#curves-chart"):
        assert page.locator(f"{chart} .line.picked").get_attribute("d").startswith("M")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/{trial}.html")


def test_a_long_table_shows_the_first_200_rows_and_a_button_for_more(page, report):
    text = (report / "index.html").read_text()
    body = text[text.index("<tbody>\n<tr id=") + 8 : text.index("</tbody>", text.index("<tbody>\n<tr id="))]
    many = "".join(re.sub('id="trial-', f'id="trial-{number}-', body) for number in range(9))
    (report / "many.html").write_text(text.replace(body, many))
    page.goto((report / "many.html").as_uri())
    assert (page.locator("#board tbody tr").count(), page.locator("#count").text_content()) == (200, "225 rows")
    button(page, "svhn").click()
    assert column(page, "svhn") == sorted(column(page, "svhn"), key=float, reverse=True)
    page.get_by_role("button", name="Show 25 more rows").click()
    assert page.locator("#board tbody tr").count() == 225 and not page.locator("#more").is_visible()
    last = re.findall('<tr id="([^"]+)', many)[-1]
    page.goto((report / "many.html").as_uri() + "?again#" + last)
    assert page.locator(f"#{last}").is_visible()


def test_table_and_charts_use_the_whole_width(page):
    page.set_viewport_size({"width": 1920, "height": 1000})
    page.reload()
    assert page.evaluate("document.querySelector('#coordinates svg').clientWidth") > 1750
    assert page.evaluate("document.querySelector('#board').clientWidth") > 1750
    assert page.evaluate("document.documentElement.scrollWidth") <= 1920


def test_a_dashboard_page_updates_in_place(browser, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mdssl.figures", stand_in_for_figures())
    storage = str(tmp_path / "results")
    write_board(storage)
    made = server._listen("127.0.0.1", 0)
    made.dashboard = Dashboard(Location.of(storage), Folder(tmp_path / "pages", storage=storage))
    made.token, made.names = "", server._names_of("127.0.0.1")
    threading.Thread(target=made.serve_forever, daemon=True).start()
    context = browser.new_context(viewport={"width": 900, "height": 500})
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(f"http://127.0.0.1:{made.server_address[1]}/")
    page.locator('select[data-column="method"]').select_option("mdssl")
    page.locator("#ranges summary").click()
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 600)")
    assert page.locator("#board tbody tr").count() == 10
    new = write_trial(storage, config(lambda2=0.4), {"svhn": 41.0})
    made.dashboard.update()
    sync_api.expect(page.locator("#board tbody tr")).to_have_count(11, timeout=60_000)
    assert new in column(page, "trial_id") and set(column(page, "method")) == {"mdssl"}
    assert page.evaluate("window.scrollY") == 600 and page.locator("#ranges").get_attribute("open") is not None
    page.route("**/version", lambda route: route.abort())
    sync_api.expect(page.locator("#connection")).to_contain_text("does not answer", timeout=60_000)
    context.close()
    made.shutdown()
    made.server_close()
    # The browser itself reports the closed server.
    assert [text for text in wrong if "ERR_" not in text] == []


def test_the_report_is_usable_by_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.locator("#text").focus()
    page.keyboard.type("mdssl")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('th')?.dataset.column") == "svhn":
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.locator('#board th[data-column="svhn"]').get_attribute("aria-sort") == "descending"


def test_rows_link_to_trial_pages_and_trial_pages_link_back(page):
    link = page.locator("#board tbody a").nth(3)
    trial_id = link.text_content()
    link.click()
    assert trial_id in page.locator(".under code").first.text_content()
    page.get_by_role("link", name="All trials").click()
    assert page.url.endswith(f"#trial-{trial_id}")
    assert page.locator(f"#trial-{trial_id}").is_visible()
    assert page.locator("#count").text_content() == "25 rows"


def test_pages_fit_the_width_of_a_phone(page, report):
    page.set_viewport_size({"width": 360, "height": 740})
    trial = next((report / "trials").glob("*.html"))
    for file in (report / "index.html", trial):
        page.goto(file.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_all_rows_are_visible_without_javascript(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((report / "index.html").as_uri())
    assert page.locator("#board tbody tr").count() == 25
    assert page.locator("#board tbody tr").last.is_visible()
    assert not page.locator("#controls").is_visible()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_accessibility_violations(browser, report, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    # axe is injected into the page, and the content security policy would block it.
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    failed = next(file for file in (report / "trials").glob("*.html") if "Failed:" in file.read_text())
    confused = next(report.glob("trials/*-confusion-0.svg")).name.split("-")[0]
    for file in (report / "index.html", failed, report / "trials" / f"{confused}.html"):
        page.goto(file.as_uri())
        page.evaluate("document.querySelectorAll('#ledger ~ details')[1]?.setAttribute('open', '')")
        # Only colors differ between the schemes, and each rule is slow.
        found = axe.run(page, options={} if scheme == "light" else {"runOnly": ["color-contrast"]})
        assert found.violations_count == 0, found.generate_report()
    context.close()
