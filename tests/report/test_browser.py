"""The page in a real browser: no errors, no overflow, folds, sorting of tables. Needs Chromium."""

import shutil

import pytest
from from_runs import DPI
from synthetic import write_run, write_study

from gloss.report.build import build

WIDTHS = (390, 1400)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    if not BROWSER or not DRIVER:
        pytest.skip("no Chromium with its driver here: apt-get install chromium chromium-driver")
    outputs = tmp_path_factory.mktemp("outputs")
    for loss, accuracy in (("ce", 80.0), ("scl_ce", 9.5), ("gloss_sqrt", 84.0)):
        for seed in (1, 2):
            config = {"trainer": {"max_epochs": 3}}
            write_run(
                outputs, dataset="r8", model="minilm", loss=loss, seed=seed, accuracy=accuracy + seed, config=config
            )
    write_study(outputs)
    (outputs / "selections.yaml").write_text("fig4: [[]]")  # with an experiment the page has the paper's claims
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.get(build(outputs, dpi=DPI).page.as_uri())
    yield driver
    driver.quit()


def emulate(browser, width, media=""):
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})


def open_folds(browser, is_open):
    browser.execute_script("for (const x of document.querySelectorAll('details')) x.open = arguments[0]", is_open)


def test_page_has_no_errors_and_no_missing_pictures(browser):
    assert browser.get_log("browser") == []
    open_folds(browser, True)
    widths = browser.execute_script("return [...document.images].map(i => i.complete ? i.naturalWidth : 0)")
    assert len(widths) >= 2 and min(widths) > 0


@pytest.mark.parametrize(("width", "media"), [*((width, "") for width in WIDTHS), (720, "print")])  # 720: A4
def test_page_is_not_wider_than_the_window(browser, width, media):
    emulate(browser, width, media=media)
    for is_open in (False, True):
        open_folds(browser, is_open)
        sizes = "const x = document.documentElement; return [x.scrollWidth, x.clientWidth, innerWidth]"
        found, room, window = browser.execute_script(sizes)
        assert found == room and window == width
    open_folds(browser, False)
    nav, main = browser.execute_script(
        "return ['nav', 'main'].map(x => document.querySelector(x).getBoundingClientRect().toJSON())"
    )
    # the navigation is beside the text, or above it
    assert nav["right"] <= main["left"] if width >= 1100 else nav["bottom"] <= main["top"]
    first = browser.execute_script("return document.images[0].getBoundingClientRect().top + scrollY")
    assert first < 3 * 844  # the first figure is within three screens


def test_pictures_wider_than_the_window_have_a_scroll_hint(browser):
    look = (
        "return [...document.querySelectorAll('figure')].filter(f => f.checkVisibility()).map(f => { "
        "const b = f.querySelector('.scroll'); return [b.scrollWidth > b.clientWidth + 1, "
        "getComputedStyle(f, '::after').content !== 'none'] })"
    )
    frame = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
    for width in WIDTHS:
        emulate(browser, width)
        browser.execute_async_script(frame)
        seen = browser.execute_script(look)
        assert all(is_wide == has_hint for is_wide, has_hint in seen)
        assert any(is_wide for is_wide, _ in seen) == (width == 390)
    emulate(browser, 390)
    browser.execute_script("for (const b of document.querySelectorAll('figure .scroll')) b.scrollLeft = b.scrollWidth")
    browser.execute_async_script(frame)
    assert not any(has_hint for _, has_hint in browser.execute_script(look))


def test_folds_open_by_click_by_link_and_in_print(browser):
    emulate(browser, 1400)
    browser.execute_script("location.hash = ''")
    open_folds(browser, False)
    seen = "return [...document.querySelectorAll(arguments[0])].every(x => x.checkVisibility())"
    assert not browser.execute_script(seen, "#notes li")
    browser.execute_script("document.querySelector('details:has(#notes) > summary').click()")
    assert browser.execute_script(seen, "#notes li")
    open_folds(browser, False)
    browser.execute_script("document.querySelector('nav a[href^=\"#study-\"]').click()")
    assert browser.execute_script("return document.querySelector(location.hash).closest('details').open")
    open_folds(browser, False)
    assert not browser.execute_script(seen, "details > div, details li, details td")
    emulate(browser, 800, media="print")
    assert browser.execute_script(seen, "details > div, details li, details td")
    emulate(browser, 1400)


def test_tables_sort_by_a_click(browser):
    emulate(browser, 1400)
    cells = (
        "const t = document.querySelector('main table'), i = [...t.tHead.rows[0].cells].findIndex(c => "
        "c.textContent.trim() === arguments[0]); if (arguments[1]) t.tHead.rows[0].cells[i].click(); "
        "return [...t.tBodies[0].rows].map(r => r.cells[i].textContent.trim())"
    )
    assert len(browser.execute_script(cells, "Accuracy %", False)) == 3
    falling = ["85.50 ± 0.71", "81.50 ± 0.71", "11.00 ± 0.71"]  # sorted as numbers; as texts 11 would be before 8
    assert browser.execute_script(cells, "Accuracy %", True) == falling
    assert browser.execute_script(cells, "Accuracy %", True) == falling[::-1]
    assert browser.execute_script(cells, "Loss", True) == ["CE", "G-Loss-SQRT + CE", "SCL + CE"]
