"""The page in a real browser: what people see and press, and what the browser itself objects to.

Needs Chromium and its chromedriver (Debian: chromium, chromium-driver); skipped where they are not.
Screenshots are kept in the directory that MEMWATCH_SCREENSHOTS names, where it is set.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import wait_until
from weeks import DAY, Week

from supervisor_memwatch import chronicle, config, journal, serve, units
from supervisor_memwatch.journal import Journal
from supervisor_memwatch.model import Entry

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
DRIVER = shutil.which("chromedriver") or ""
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--window-size=1200,1400", "--hide-scrollbars"),
)
HOSTILE = (
    "web</script><script>window.hacked=1</script>\"onfocus=window.hacked=2 autofocus x='"
    "<img src=x onerror=window.hacked=3><svg onload=window.hacked=4>"
)
LEAK = 10 * 1024 * 1024 / 3600  # bytes a second

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no chromium and chromedriver: apt-get install chromium chromium-driver",
    ),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One for all tests; a profile of its own."""
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Week:
    """Four workers and two days; the first one leaks, and was recycled."""
    directory = tmp_path_factory.mktemp("week")
    return Week(directory, time.time(), "web", 2.0, 4, LEAK).write()


@pytest.fixture(scope="module")
def report(week: Week) -> str:
    """The address of its report."""
    path = week.directory / "report.html"
    path.write_text(
        serve.report(chronicle.document(config.load(str(week.conf), {}), since=week.now - 2 * DAY)),
        encoding="utf-8",
    )
    return path.as_uri()


def show(browser: Any, url: str, **media: str) -> None:
    """Open a page anew, in light colours and for a screen where nothing else is asked for."""
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    scheme = media.get("scheme", "light")
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {
            "media": media.get("media", "screen"),
            "features": [{"name": "prefers-color-scheme", "value": scheme}],
        },
    )
    browser.get(url)


def quiet(browser: Any) -> None:
    """The browser has nothing to complain of, the policy included."""
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def requests(browser: Any) -> set[str]:
    """What was asked for, anywhere, since the page was opened."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }


def keep(browser: Any, name: str) -> None:
    """A screenshot of the whole page, for people."""
    directory = os.environ.get("MEMWATCH_SCREENSHOTS")
    if not directory:
        return
    Path(directory).mkdir(parents=True, exist_ok=True)
    height = browser.execute_script("return document.documentElement.scrollHeight")
    shot = browser.execute_cdp_cmd(
        "Page.captureScreenshot",
        {
            "captureBeyondViewport": True,
            "clip": {"x": 0, "y": 0, "width": 1200, "height": min(height, 3000), "scale": 1},
        },
    )
    (Path(directory) / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def view(browser: Any) -> list[float]:
    """What the chart shows: from, to (seconds), bottom, top (KB)."""
    box = browser.execute_script("return document.querySelector('.plot').getAttribute('viewBox')")
    x, y, width, height = map(float, box.split())
    return [x, x + width, -y - height, -y]


def mouse(browser: Any) -> Any:
    from selenium.webdriver.common.action_chains import ActionChains

    return ActionChains(browser, duration=50)


def at_share(browser: Any, share: float) -> int:
    """Pixels from the chart's centre."""
    return round(find(browser, ".chart").size["width"] * (share - 0.5))


def key(browser: Any, *keys: str) -> None:
    find(browser, ".chart").send_keys(*keys)


def shown_at(readout: str, week: Week) -> dict[str, str]:
    """pid -> size, as the readout has them; its moment is the first sixteen characters."""
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d: ", readout), readout
    return dict(re.findall(r"(\d+): (\S+?)(?:,|$)", readout[18:]))


def test_the_numbers_on_the_page_are_the_journals(browser: Any, week: Week, report: str) -> None:
    """The curves' points, the workers at the end, and what came back."""
    show(browser, report)
    since = float(find(browser, ".chart").get_attribute("data-begin"))
    paths = browser.execute_script(
        "return [...document.querySelectorAll('.curves[data-measure=uss] path')]"
        ".map((path) => [path.dataset.pid, path.getAttribute('d')])"
    )
    found = set()
    for pid, path in paths:
        x = y = 0
        numbers = [int(number) for number in re.findall(r"-?\d+", path)]
        for dx, dy in zip(numbers[::2], numbers[1::2], strict=True):
            x, y = x + dx, y + dy
            found.add((int(pid), x, y))
    rows = {
        (row[0], round(at - since), round(row[5] / 1024)) for at, rows in week.rows for row in rows
    }
    assert found == rows
    last = {str(row[0]): row[5] for row in week.rows[-1][1][1:]}
    table = browser.execute_script(
        "return [...document.querySelectorAll('.alike + .scroll tbody tr')].map((row) =>"
        " [row.cells[0].textContent, row.querySelector('b').textContent])"
    )
    assert dict(table) == {f"worker {pid}": units.size(size) for pid, size in last.items()}
    freed = [entry.data["freed_bytes"] for entry in week.entries if entry.kind == "outcome"]
    back = [find.text for find in browser.find_elements("css selector", "td b[data-bytes]")]
    assert freed and [units.size(size) for size in reversed(freed)] == back[-len(freed) :]
    quiet(browser)


def test_the_cursor_says_what_everyone_held(browser: Any, week: Week, report: str) -> None:
    """By mouse and by key: the sizes of the journal's nearest sample."""
    show(browser, report)
    begin = float(find(browser, ".chart").get_attribute("data-begin"))
    for share in (0.2, 0.5, 0.93):
        chart = find(browser, ".chart")
        mouse(browser).move_to_element_with_offset(chart, at_share(browser, share), 20).perform()
        line = find(browser, ".cursor").get_dom_attribute("x1")
        left, right, *_ = view(browser)
        moment = begin + left + float(line.rstrip("%")) / 100 * (right - left)
        near = sorted(week.rows, key=lambda row: abs(row[0] - moment))[:2]  # a pixel is minutes
        sizes = shown_at(find(browser, ".readout").text, week)
        assert len(sizes) == 5
        for pid, size in sizes.items():
            held = [units.size(row[5]) for _, rows in near for row in rows if str(row[0]) == pid]
            assert size in held, (share, pid)
        legend = browser.find_elements("css selector", ".legend b")
        assert sorted(each.text for each in legend) == sorted(sizes.values())
    key(browser, "\ue010")  # End
    last = {str(row[0]): units.size(row[5]) for row in week.rows[-1][1]}
    assert shown_at(find(browser, ".readout").text, week) == last
    key(browser, "\ue012" * 3)  # ArrowLeft
    assert float(find(browser, ".cursor").get_dom_attribute("x1").rstrip("%")) == pytest.approx(97)
    quiet(browser)


def test_it_zooms(browser: Any, report: str) -> None:
    """By dragging, by keys and by buttons; and back to all of it."""
    show(browser, report)
    whole = view(browser)
    chart = find(browser, ".chart")
    mouse(browser).move_to_element_with_offset(
        chart, at_share(browser, 0.25), 0
    ).click_and_hold().move_by_offset(at_share(browser, 0.75), 10).release().perform()
    left, right, _, top = view(browser)
    span = whole[1]
    assert left == pytest.approx(span / 4, rel=0.02) and right == pytest.approx(span / 2, rel=0.02)
    assert top < whole[3]
    assert len(browser.find_elements("css selector", ".xlabels text")) >= 3
    mouse(browser).double_click(chart).perform()
    assert view(browser) == whole
    key(browser, "+", "+")
    assert view(browser)[1] - view(browser)[0] == pytest.approx(span / 4, rel=0.02)
    before = view(browser)
    find(browser, "[data-do=earlier]").click()
    assert view(browser)[0] < before[0] and view(browser)[1] < before[1]
    find(browser, "[data-do=later]").click()
    find(browser, "[data-do=out]").click()
    find(browser, "[data-do=in]").click()
    assert view(browser) == pytest.approx(before, abs=2)
    key(browser, "0")
    assert view(browser) == whole
    quiet(browser)


def test_curves_can_be_hidden_and_measured_otherwise(browser: Any, report: str) -> None:
    """With the keyboard alone."""
    show(browser, report)
    whole = view(browser)
    button = find(browser, ".legend [data-place='1']")
    button.send_keys(" ")
    assert button.get_attribute("aria-pressed") == "false"
    hidden = browser.find_elements("css selector", ".curves:not([display]) path[display=none]")
    assert {path.get_attribute("data-place") for path in hidden} == {"1"}
    button.send_keys(" ")
    find(browser, "select").send_keys("RSS")
    groups = browser.find_elements("css selector", ".curves:not([display])")
    assert [group.get_attribute("data-measure") for group in groups] == ["rss"]
    key(browser, "\ue010")
    assert "master 1000: 30.0MB" in find(browser, ".readout").text
    assert view(browser)[1] == whole[1]
    quiet(browser)


@pytest.mark.parametrize("width", [1200, 400])
def test_nothing_is_in_the_way_of_anything_else(
    browser: Any, week: Week, report: str, width: int
) -> None:
    """Neither labels of labels, flags and lines, nor the page's width of what is in it."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        show(browser, report)
        for _ in range(3):  # all of it, then two parts
            # A line has no height, and one is not in the way of its own label: that is beside it.
            boxes = browser.execute_script(
                "return ['.linelabel', '.ylabels text', '.flag', '.line.limit'].map((kind) =>"
                " [...document.querySelectorAll(kind)].filter((node) =>"
                " getComputedStyle(node).display !== 'none').map((node) => {"
                " const box = node.getBoundingClientRect();"
                " return [box.left, box.top, box.right, box.bottom]; }))"
            )
            labels, sizes, flags, lines = boxes
            assert labels and sizes and flags and lines
            for one in labels + sizes:
                others = [each for each in [*labels, *sizes, *lines] if each is not one]
                assert not [each for each in others if overlap(one, each)], (one, others)
            assert not [each for each in flags for one in labels if overlap(one, each)]
            key(browser, "+")
        assert browser.execute_script("return document.documentElement.scrollWidth") == width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def overlap(one: list[float], other: list[float]) -> bool:
    """Whether two boxes (left, top, right, bottom) have a pixel in common."""
    return (
        min(one[2], other[2]) - max(one[0], other[0]) > 1
        and min(one[3], other[3]) - max(one[1], other[1]) > -0.5
    )


def test_no_request_leaves_a_report(browser: Any, report: str) -> None:
    """It is one file."""
    show(browser, report)
    assert requests(browser) == {report}
    quiet(browser)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_is_in_the_way_of_anybody(browser: Any, report: str, scheme: str) -> None:
    """Of axe-core's rules, contrast included; in both colour schemes, with everything open."""
    axe = pytest.importorskip("axe_core_python.selenium").Axe()
    show(browser, report, scheme=scheme)
    browser.execute_script("document.querySelector('details').open = true")
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 28)"}[scheme]
    key(browser, "\ue010")
    found = axe.run(browser)
    bad = [
        (rule["id"], rule["impact"], [node["html"][:200] for node in rule["nodes"]])
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
    ]
    assert bad == []
    assert len(found["passes"]) > 20
    browser.execute_script("document.querySelector('details').open = false")
    keep(browser, f"report-{scheme}")


def test_everything_can_be_reached_with_the_tab_key(browser: Any, report: str) -> None:
    """Chart, buttons, choice, curves, tables; and what has the focus shows it."""
    from selenium.webdriver.common.keys import Keys

    show(browser, report)
    reached = set()
    for _ in range(30):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        active = browser.switch_to.active_element
        reached.add(active.get_attribute("id") or active.tag_name)
        if active.tag_name != "body":
            assert active.value_of_css_property("outline-style") != "none"
    assert {"p0-plot", "p0-measure", "p0-in", "p0-all", "p0-place0", "p0-place1"} <= reached
    assert "summary" in reached


def test_it_prints(browser: Any, report: str) -> None:
    """Dark on white whatever the scheme, without buttons; as a PDF of a few pages."""
    show(browser, report, media="print", scheme="dark")
    assert not find(browser, ".controls").is_displayed()
    assert find(browser, ".plot").is_displayed()
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF") and 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 6
    keep(browser, "report-print")


def test_it_can_be_read_without_a_script(browser: Any, report: str) -> None:
    """Curves, marks and tables are there; what would do nothing is not shown."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, report)
        assert find(browser, ".curves path").get_attribute("d").startswith("m")
        assert not find(browser, ".controls").is_displayed()
        assert find(browser, ".answer").text.startswith("Worker ")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_hostile_names_do_nothing(browser: Any, tmp_path: Path) -> None:
    """They are shown as what they are."""
    week = Week(tmp_path, time.time(), HOSTILE, 1.0, 3, 2 * LEAK, reason=HOSTILE)
    week._say(week.now - 100, "seen", HOSTILE)
    week._say(week.now - 90, "release", HOSTILE)
    week.write()
    path = tmp_path / "report.html"
    path.write_text(
        serve.report(chronicle.document(config.load(str(week.conf), {}))), encoding="utf-8"
    )
    show(browser, path.as_uri())
    key(browser, "\ue010", "+", "0")
    assert browser.execute_script("return window.hacked") is None
    assert HOSTILE in find(browser, "h2").text
    assert find(browser, "section").get_attribute("data-name") == HOSTILE
    assert requests(browser) == {path.as_uri()}
    quiet(browser)


def surely(act: Callable[[], None]) -> None:
    """Also where the page refreshes itself in the middle of it."""
    from selenium.common.exceptions import StaleElementReferenceException

    for _ in range(10):
        try:
            return act()
        except StaleElementReferenceException:
            continue
    return act()


def where(browser: Any) -> list[float]:
    """The chart's begin, and what it shows of it, at one moment."""
    begin, box = browser.execute_script(
        "return [document.querySelector('.chart').dataset.begin,"
        " document.querySelector('.plot').getAttribute('viewBox')]"
    )
    x, _, width, _ = map(float, box.split())
    return [float(begin), x, x + width]


def live(week: Week, listen: str = "127.0.0.1:0") -> tuple[Any, Callable[[], None]]:
    """`memwatch serve` in a thread: the server, and how it is ended."""
    server = serve.open_server(config.load(str(week.conf), {}), serve.address(listen), [], 2 * DAY)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()

    def end() -> None:
        server.shutdown()
        thread.join()
        serve.close(server)

    return server, end


def test_a_live_page_refreshes_itself(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves alone what the reader has set: zoom, measure, hidden curves, focus, what is open.
    It asks its own server, and nobody else."""
    monkeypatch.setattr(serve, "REFRESH", 1.0)
    week = Week(tmp_path, time.time(), "web", 0.5, 3, LEAK).write()
    server, end = live(week)
    try:
        url = serve.url(server)
        show(browser, url)
        surely(lambda: find(browser, "select").send_keys("RSS"))
        surely(lambda: find(browser, ".legend [data-place='2']").click())
        surely(lambda: find(browser, "summary").click())
        surely(lambda: key(browser, "+", "+"))
        begin, left, right = where(browser)
        book = Journal(str(week.journal))
        book.write([journal.entry_row(Entry(time.time(), "web", "seen", "somebody came"))])
        book.close()
        wait_until(
            lambda: "somebody came" in browser.page_source, 30, lambda: "the page refreshed itself"
        )
        assert browser.execute_script(
            "return [document.querySelector('select').value,"
            " document.querySelector('details').open,"
            " document.querySelector('.legend [data-place=\"2\"]').ariaPressed,"
            " document.activeElement.id]"
        ) == ["rss", True, "false", "p0-plot"]
        now, *span = where(browser)
        assert span == pytest.approx([left + begin - now, right + begin - now], abs=3)
        assert requests(browser) == {url}
        quiet(browser)
        keep(browser, "serve")
    finally:
        end()
    said = "return document.getElementById('fresh').textContent"
    wait_until(
        lambda: "cannot be refreshed" in browser.execute_script(said), 30, lambda: "that it ended"
    )


def test_a_rebound_name_is_refused(browser: Any, tmp_path: Path) -> None:
    """A page of somebody else's, under a name that leads here, learns nothing."""
    week = Week(tmp_path, time.time(), "web", 0.1, 2, LEAK).write()
    server, end = live(week)
    try:
        port = server.server_address[1]
        # localhost.localdomain and the like are not asked for: every name below .localhost leads
        # to this machine, and only the plain one is its own.
        show(browser, f"http://evil.localhost:{port}/")
        assert "web" not in find(browser, "body").text
        assert "localhost only" in find(browser, "body").text
    finally:
        end()
