"""The site as its reader has it: built, opened in a browser, searched, its links followed.

These tests need mkdocs, selenium, and Debian's chromium and chromium-driver: `make docs-test`. They leave
screenshots in build/screenshots for a person to look at.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SHOTS = ROOT / "build" / "screenshots"
MISSING = [
    *(name for name in ("mkdocs", "mkdocstrings", "selenium") if importlib.util.find_spec(name) is None),
    *(name for name in ("chromium", "chromedriver") if shutil.which(name) is None),
]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: see make docs-test"),
    pytest.mark.deadline(600),
]
PATIENCE = 30  # seconds for the browser to show something
REPOSITORY = "https://github.com/example/shmchannel"  # on this host Material would ask for the stars
WIDE, NARROW = (1300, 1000), (390, 850)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-f",
        "docs/mkdocs.yml",
        "-d",
        str(folder),
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "REPOSITORY_URL": REPOSITORY}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(pages: Path) -> Iterator[str]:
    """The address at which the site is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(pages))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(PATIENCE)
    yield driver
    driver.quit()


def until(browser: Any, condition: Any) -> Any:
    """Wait until the condition returns something true, and return that."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, PATIENCE).until(condition)


def look(browser: Any, scheme: str, size: tuple[int, int]) -> None:
    """Open a window of that size, in a system with that colour scheme."""
    wish = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == NARROW}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def brightness(browser: Any, picture: str) -> float:
    """Return the mean of a PNG's pixels, 0 to 255. The picture is in Base64."""
    script = """
        const [data, done] = arguments, image = new Image();
        image.onload = () => {
            const canvas = new OffscreenCanvas(image.width, image.height), c = canvas.getContext("2d");
            c.drawImage(image, 0, 0);
            const bytes = c.getImageData(0, 0, image.width, image.height).data;
            let sum = 0;
            for (let i = 0; i < bytes.length; i += 4) sum += bytes[i] + bytes[i + 1] + bytes[i + 2];
            done(sum / (bytes.length / 4 * 3));
        };
        image.src = "data:image/png;base64," + data;
    """
    return float(browser.execute_async_script(script, picture))


def test_a_search_finds_a_page_and_its_link_leads_there(site: str, browser: Any) -> None:
    look(browser, "light", WIDE)
    browser.get(site)
    browser.find_element("css selector", ".md-search__input").send_keys("transfer")
    results = until(browser, lambda b: b.find_elements("css selector", ".md-search-result__link"))
    until(browser, lambda _: results[0].is_displayed())
    SHOTS.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(SHOTS / "search.png"))
    next(one for one in results if "/howto/transfers.html" in one.get_attribute("href")).click()
    until(browser, lambda b: "/howto/transfers.html" in b.current_url)
    assert browser.find_element("tag name", "h1").text.startswith("Moving memory")
    browser.find_element("css selector", ".md-footer__link--next").click()
    until(browser, lambda b: "/howto/classes.html" in b.current_url)


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_whole(
    pages: Path, site: str, browser: Any, scheme: str, size: tuple[int, int]
) -> None:
    look(browser, scheme, size)
    folder = SHOTS / f"{scheme}-{size[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    names = [str(path.relative_to(pages)) for path in sorted(pages.rglob("*.html"))]
    assert len(names) > 20
    for name in names:
        browser.get(site + name)
        assert browser.find_element("tag name", "h1").is_displayed(), name
        wider = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.execute_script(wider) <= 0, f"{name} has to be scrolled sideways"
        broken = "return [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        until(browser, lambda b: b.execute_script("return [...document.images].every(i => i.complete)"))
        assert browser.execute_script(broken) == [], name
        picture = browser.get_screenshot_as_base64()
        assert (brightness(browser, picture) > 128) == (scheme == "light"), f"{name} is not {scheme}"
        (folder / f"{name.replace('/', '-')}.png").write_bytes(base64.b64decode(picture))


def test_a_picture_follows_the_switch(site: str, browser: Any) -> None:
    look(browser, "light", WIDE)
    browser.get(site)
    picture = browser.find_element("css selector", "img[src$='rings.svg']")
    assert brightness(browser, picture.screenshot_as_base64) > 200
    for title in ("Switch to light", "Switch to dark"):
        browser.find_element("css selector", f"label[title='{title}']").click()
    until(browser, lambda b: brightness(b, picture.screenshot_as_base64) < 80)


def test_a_plot_is_as_dark_as_its_page(site: str, browser: Any) -> None:
    for scheme, suits in (("light", lambda mean: mean > 200), ("dark", lambda mean: mean < 80)):
        look(browser, scheme, WIDE)
        browser.get(site + "performance.html")
        plots = browser.find_elements("css selector", "img[src*='plots/']")
        assert len(plots) >= 4
        for plot in plots:
            until(browser, lambda b, plot=plot: b.execute_script("return arguments[0].complete", plot))
            assert suits(brightness(browser, plot.screenshot_as_base64)), plot.get_attribute("src")


def test_a_signature_wraps_on_a_phone(site: str, browser: Any) -> None:
    look(browser, "light", NARROW)
    browser.get(site + "reference.html")
    wider = """return [...document.querySelectorAll(".doc-signature pre > code")].map(
        code => code.scrollWidth - code.clientWidth)"""
    widths = browser.execute_script(wider)
    assert len(widths) > 30
    assert max(widths) <= 0


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("numpy", "howto/arrays"),
        ("worker pool", "howto/pool"),
        ("docker", "howto/containers"),
        ("request reply", "howto/requests"),
        ("camera", "howto/frames"),
        ("systemd", "howto/daemons"),
        ("jupyter", "howto/notebooks"),
        ("gevent", "howto/gevent"),
    ],
)
def test_a_search_for_a_task_finds_its_page_first(site: str, browser: Any, words: str, page: str) -> None:
    look(browser, "light", WIDE)
    browser.get(site)
    browser.find_element("css selector", ".md-search__input").send_keys(words)
    first = until(browser, lambda b: b.find_elements("css selector", ".md-search-result__link"))[0]
    until(browser, lambda _: f"/{page}.html" in first.get_attribute("href"))


def test_every_page_links_to_the_repository(pages: Path) -> None:
    for path in pages.rglob("*.html"):
        assert f'href="{REPOSITORY}"' in path.read_text(), path.name


def test_the_site_asks_nobody_else_and_complains_of_nothing(pages: Path, site: str, browser: Any) -> None:
    asked = []
    for path in sorted(pages.rglob("*.html")):
        browser.get(site + str(path.relative_to(pages)))
        for entry in browser.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            asks = message["params"] if message["method"] == "Network.requestWillBeSent" else {}
            if asks.get("documentURL", "").startswith(site):  # not for the browser's own first page
                asked.append(asks["request"]["url"])
    assert len(asked) > 100
    assert [url for url in asked if not url.startswith((site, "data:", "blob:"))] == []
    assert [entry["message"] for entry in browser.get_log("browser")] == []
