import os
import shutil
import sys

import pytest
from report_board import config, stand_in_for_figures, write_board, write_failed, write_trial

from mdssl.report import pictures
from mdssl.report.build import write_report

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
    """Of 25 trials, of which two failed and one was scored on one dataset alone."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        # Other processes would not have the stand-in.
        patch.setattr(pictures, "PARALLEL_TRIALS", 100)
        patch.setitem(sys.modules, "mdssl.figures", stand_in_for_figures())
        write_board(str(folder / "results"), seeds=2)
        write_trial(str(folder / "results"), config(lambda2=0.3), {"svhn": 9.25})
        write_failed(str(folder / "results"), config(lambda2=0.8))
        write_report(folder / "results", folder / "report")
    return folder / "report"


@pytest.fixture
def page(browser, report):
    """The first page, opened. Whatever it asks for but files, or complains of, fails the test."""
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
    """The cells of a column, of the rows that are to be seen."""
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


def test_numbers_are_sorted_as_numbers_and_rows_without_one_are_last(page):
    button(page, "svhn").click()
    falling = column(page, "svhn")
    assert falling[-2:] == ["–", "–"]
    numbers = [float(text) for text in falling[:-2]]
    assert numbers == sorted(numbers, reverse=True)
    # 9.2 is below 10 and more, which letters would not say.
    assert numbers[-1] < 10 < numbers[0]
    heading = page.locator('#board th[data-column="svhn"]')
    assert heading.get_attribute("aria-sort") == "descending"
    button(page, "svhn").click()
    assert column(page, "svhn") == [*(f"{number:.1f}" for number in sorted(numbers)), "–", "–"]
    button(page, "method").click()
    assert column(page, "method") == sorted(column(page, "method"))
    assert heading.get_attribute("aria-sort") is None


def test_filters_leave_what_is_asked_for_and_say_how_much(page):
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


def test_the_address_holds_what_was_chosen(page, browser):
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


def test_it_can_be_used_by_keyboard_alone(page):
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


def test_a_row_leads_to_its_page_and_the_page_back_to_the_row(page):
    link = page.locator("#board tbody a").nth(3)
    trial_id = link.text_content()
    link.click()
    assert trial_id in page.locator(".under code").first.text_content()
    page.get_by_role("link", name="All trials").click()
    assert page.url.endswith(f"#trial-{trial_id}")
    assert page.locator(f"#trial-{trial_id}").is_visible()
    assert page.locator("#count").text_content() == "25 rows"


def test_a_phone_scrolls_the_table_and_not_the_page(page, report):
    page.set_viewport_size({"width": 360, "height": 740})
    trial = next((report / "trials").glob("*.html"))
    for file in (report / "index.html", trial):
        page.goto(file.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_without_a_script_all_is_there_to_be_read(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((report / "index.html").as_uri())
    assert page.locator("#board tbody tr").count() == 25
    assert page.locator("#board tbody tr").last.is_visible()
    assert not page.locator("#controls").is_visible()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_keeps_somebody_out(browser, report, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    # axe is put into the page, whose policy would keep it out.
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    failed = next(file for file in (report / "trials").glob("*.html") if "Failed:" in file.read_text())
    for file in (report / "index.html", failed):
        page.goto(file.as_uri())
        page.evaluate("document.querySelectorAll('#ledger ~ details')[1]?.setAttribute('open', '')")
        # Nothing but colours differs by scheme, and every rule takes its time.
        found = axe.run(page, options={} if scheme == "light" else {"runOnly": ["color-contrast"]})
        assert found.violations_count == 0, found.generate_report()
    context.close()
