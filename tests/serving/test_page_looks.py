"""What the playground's page shows of any text, on any screen: characters, markup, sizes and contrast."""

import pytest
from helpers.browser import PHONE
from helpers.playground import NASTY, fill, generate, until

pytest.importorskip("fastapi", reason="the server needs the extra serve")


def test_markup_is_text(page):
    generate(page, NASTY[:50], max_tokens=0)
    assert page.run("return listbox.textContent") == NASTY[:50]
    assert page.run("return document.title").endswith("playground")
    assert page.run("return document.querySelectorAll('main script, main img').length") == 0
    assert NASTY in page.run("return find('model').textContent")


def test_a_character_of_several_tokens_and_what_can_not_be_seen(page):
    text = "né字\n\t\x1b\u202e\u00a0 "
    generate(page, text, max_tokens=0)
    shown = page.run(
        "return tokenView.elements.map((element) => [element.textContent, element.classList.contains('part')])"
    )
    wanted = [["n", False], ["", True], ["é", False], ["", True], ["", True], ["字", False]]
    assert shown[:8] == [*wanted, ["\n", False], ["\t", False]]
    assert [text for text, _ in shown[8:]] == ["\\x1b", "", "", "\\u202e", "", "\\u00a0", " "]
    assert page.run("return plainText(shown.tokens)") == text
    script = "return characters(arguments[0].map((bytes) => ({ bytes })), arguments[1])"
    part = [[{"text": "a"}], [{"byte": 0xE5}], [{"byte": 0x80}, {"text": "b"}]]
    assert page.run(script, ["61", "e5", "8062"], False) == part
    assert page.run(script, ["61e5", "ad"], True) == [[{"text": "a"}], []]
    assert page.run(script, ["61e5", "ad"], False) == [[{"text": "a"}, {"byte": 0xE5}], [{"byte": 0xAD}]]
    assert page.run(script, ["f09f", "9880eda080c0"], True) == [
        [],
        [{"text": "😀"}, *({"byte": byte} for byte in (0xED, 0xA0, 0x80, 0xC0))],
    ]


def test_nothing_runs_that_is_not_the_page_s_own(browser, held_server):
    browser.open(f"{held_server.url}/")
    browser.run("""
        const script = document.createElement("script");
        script.textContent = "document.title = 'taken'";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", "<p id=x style='color: red' onclick='1'>");""")
    assert browser.run("return document.title").endswith("playground")
    assert browser.run("return getComputedStyle(find('x')).color !== 'rgb(255, 0, 0)'")
    assert "Content Security Policy" in "".join(browser.messages())


SMALL = """
const small = [...document.querySelectorAll("button, input, select, summary, .switch label, textarea")].filter(
  (x) => x.checkVisibility() && !x.matches("[type=radio], [type=checkbox]") && x.getBoundingClientRect().height < 40);
return small.map((x) => x.id || x.textContent);
"""


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_all_fits_and_can_be_touched(browser, held_server, dark):
    browser.open(f"{held_server.url}/", PHONE, dark)
    width = "return document.documentElement.scrollWidth"
    generate(browser, "A long prompt-without-a-space-in-it-which-must-wrap", max_tokens=12)
    browser.run("find('settings').open = true")
    assert (browser.run(width), browser.run(SMALL)) == (PHONE[0], [])
    browser.click("#tokens [role=option]:nth-child(55)")
    box = browser.run("const b = panel.getBoundingClientRect(); return [b.left, b.right, b.bottom, innerHeight]")
    assert box == [0, PHONE[0], box[3], box[3]]
    assert browser.run(
        "return tokenView.elements[54].getBoundingClientRect().bottom <= panel.getBoundingClientRect().top"
    )
    assert (browser.run(width), browser.run(SMALL)) == (PHONE[0], [])
    browser.click("#panel-close")
    browser.run("document.querySelector('input[value=attention]').click()")
    until(browser, "attention.weights !== null")
    assert (browser.run(width), browser.run(SMALL)) == (PHONE[0], [])
    assert browser.messages() == []


# The least contrast of a text with what is behind it, of all that is seen: [ratio, text]
CONTRAST = """
const light = (c) => c.map((x) => x / 255).map((x) => (x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4))
  .reduce((sum, x, i) => sum + [.2126, .7152, .0722][i] * x, 0);
const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
function behind(element) {
  for (let at = element; at; at = at.parentElement) {
    const colour = numbers(getComputedStyle(at).backgroundColor);
    if (colour.length === 3) return colour;
  }
}
const found = [...document.querySelectorAll("body *")].filter((x) => x.checkVisibility() && !x.disabled
  && [...x.childNodes].some((node) => node.nodeType === 3 && node.data.trim())).map((x) => {
    const [a, b] = [numbers(getComputedStyle(x).color).slice(0, 3), behind(x)].map(light).sort((p, q) => q - p);
    return [(a + .05) / (b + .05), x.textContent];
  });
return found.sort((a, b) => a[0] - b[0])[0];
"""


@pytest.mark.parametrize("dark", [False, True])
def test_texts_can_be_read_on_their_colours(browser, held_server, dark):
    browser.open(f"{held_server.url}/", dark=dark)
    generate(browser, max_tokens=30)
    fill(browser, temperature="9")
    browser.run("openAlternatives(7); for (const x of tokenView.elements) x.classList.remove('prompt')")
    browser.run("tokenView.elements.forEach((x, i) => { if (i < 5) x.className = `token band-${i}` })")
    assert (found := browser.run(CONTRAST))[0] >= 4.5, found
    browser.run("document.querySelector('input[value=attention]').click()")
    until(browser, "attention.weights !== null")
    assert (found := browser.run(CONTRAST))[0] >= 4.5, found
