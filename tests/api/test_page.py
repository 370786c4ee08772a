"""The page at ``/``: open, self-contained, and working in a real browser where there is one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1100,800",
]


def test_the_page_is_open_and_loads_nothing_from_elsewhere(make_client) -> None:
    client = make_client(http={"api_key": ("secret",)})
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", answer.text)
    assert client.get("/v1/models").status_code == 401, "the page is open, the model is not"


@pytest.mark.skipif(not (DRIVER and BROWSER), reason="needs chromium and chromedriver")
def test_a_chat_in_a_browser(start_server, tmp_path: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    server = start_server("--api-key", "secret")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in [*QUIET, f"--user-data-dir={tmp_path}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, Service(DRIVER))
    try:
        wait = WebDriverWait(browser, 60)
        browser.get(server.url + "/")

        def text(name: str) -> str:
            return browser.find_element(By.ID, name).text

        wait.until(lambda _: "API key is needed" in text("state"))
        key = browser.find_element(By.ID, "key")
        key.send_keys("secret", Keys.TAB)
        wait.until(lambda _: text("state") == "ready" and server.model in text("model"))
        wait.until(lambda _: text("rate") != "–" and text("running") == "0")

        browser.find_element(By.ID, "max").clear()
        browser.find_element(By.ID, "max").send_keys("8")
        browser.find_element(By.ID, "text").send_keys("<b>hello</b>", Keys.ENTER)
        wait.until(lambda _: "8 tokens" in text("log") or "tokens, first after" in text("log"))
        turns = browser.find_elements(By.CLASS_NAME, "turn")
        assert [turn.get_attribute("class") for turn in turns] == ["turn user", "turn assistant"]
        assert turns[0].text == "<b>hello</b>", "what is typed is text, never markup"
        browser.save_screenshot(str(tmp_path / "page.png"))

        browser.find_element(By.ID, "system").send_keys("x" * 3000)
        browser.find_element(By.ID, "text").send_keys("too long now", Keys.ENTER)
        wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, ".turn.error"))
        assert "maximum context length" in browser.find_element(By.CSS_SELECTOR, ".turn.error").text
        said = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert all("401" in line or "400" in line for line in said), said
    finally:
        browser.quit()
