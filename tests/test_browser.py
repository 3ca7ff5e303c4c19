"""The helper that looks at pages notices what it is asked to notice."""

import http.server
import threading

PAGE = """<!DOCTYPE html><meta charset="utf-8"><title>n\u00e9</title><meta name="viewport" content="width=device-width">
<style>body { margin: 0; width: 500px; background: white }
@media (prefers-color-scheme: dark) { body { background: black } }</style>
<button onclick="document.title = 'clicked'">a</button>
<script>console.error("oh"); missing();</script>"""


def test_a_page_is_looked_at_as_a_reader_does(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(PAGE, encoding="utf-8")
    browser.open(page, size=(390, 844), dark=True)
    assert browser.run("return [innerWidth > 389, document.title, 1 + arguments[0]]", 2) == [True, "n\u00e9", 3]
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(0, 0, 0)"
    assert browser.run("return document.documentElement.scrollWidth > 390")
    said = browser.messages()
    assert any("oh" in line for line in said)
    assert any("missing is not defined" in line for line in said)
    assert browser.requests() == []
    browser.press("Tab", "Enter")
    assert browser.run("return document.title") == "clicked"
    browser.screenshot(tmp_path / "page.png")
    browser.print(tmp_path / "page.pdf")
    assert (tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "page.pdf").read_bytes()[:4] == b"%PDF"


def test_what_a_page_asks_the_network_for_is_seen(browser, tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/picture.png"
        page = tmp_path / "page.html"
        page.write_text(f'<img src="{address}">')
        browser.open(page)
        assert browser.requests() == [address]
        browser.open(tmp_path)
        assert browser.requests() == []
        server.shutdown()
