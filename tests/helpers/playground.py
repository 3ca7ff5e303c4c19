"""The playground's page, used in a browser as a person does."""

import time

NASTY = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
# What ``Browser.run`` gives: the ids of the text, what is said of it, what is wrong, the place of the focused token.
IDS = "return shown.tokens.map((token) => token.id)"
STATUS, PROBLEM = "return find('status').textContent", "return find('problem').textContent"
FOCUSED = "return tokenView.elements.indexOf(document.activeElement)"


def until(browser, holds):
    """Wait until an expression of JavaScript is true."""
    deadline = time.monotonic() + 20
    while not browser.run(f"return {holds}"):
        assert time.monotonic() < deadline, browser.run("return document.body.innerText")
        time.sleep(0.01)


def fill(browser, **fields):
    """Write into fields as a hand does; True and False tick and untick."""
    script = """
        const [name, value] = arguments, field = find(name), is_box = typeof value === "boolean";
        if (is_box) field.checked = value; else field.value = value;
        for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true }));"""
    for name, value in fields.items():
        browser.run(script, name, value)


def generate(browser, prompt="Once", **fields):
    """Make a text to its end, with seed 5 unless told otherwise."""
    seed = fields.pop("seed", 5)
    fill(browser, prompt=prompt, new_seed=False, seed=seed, **{"max_tokens": 8, **fields})
    before = browser.run("return shown.id")
    browser.click("#go")
    until(browser, f"shown.id !== '{before}' && !running && isDrawn")
