"""Attention on the playground's page: numbers, colours in the text, and the maps."""

import time

import numpy as np
import pytest
from helpers.playground import IDS, generate, until

from npgpt.generation.attention import attention_weights

pytest.importorskip("fastapi", reason="the server needs the extra serve")


def test_attention_of_a_head_over_the_text(page, held_server):
    generate(page)
    page.click("input[value=attention]")
    until(page, "attention.weights !== null")
    weights = attention_weights(held_server.engine.decoder.model, page.run(IDS), 0)
    assert np.array(page.run("return [...attention.weights]")).reshape(2, 12, 12) == pytest.approx(weights, abs=1e-6)
    page.click("#heads button:nth-child(2)")
    assert page.run("return find('heads').children[1].ariaPressed") == "true"
    page.run("focusToken(8)")
    page.press("Right")
    row = weights[1, 9]
    best = int(row.argmax())
    said = page.run("return find('looks').textContent")
    assert "(10) looks at " in said
    assert f"({best + 1}) {100 * row[best]:.0f}%" in said
    marked = page.run(
        "return tokenView.elements.map((element) => [...element.classList].find((c) => /^look-/.test(c)))"
    )
    bands = [next(i for i, low in enumerate((0.5, 0.2, 0.05, 0.01, 0)) if p >= low) for p in row[:10]]
    assert marked == [*(f"look-{band}" for band in bands), None, None]
    assert page.run("return tokenView.elements[9].classList.contains('looking')")
    page.press("Enter")
    assert page.run("return panel.hidden")
    page.click("input[value=probability]")
    assert page.run("return document.querySelectorAll('[class*=look-]').length") == 0


def test_the_map_is_painted_and_says_what_is_under_the_pointer(page):
    generate(page)
    page.click("input[value=attention]")
    until(page, "attention.weights !== null")
    colour = """
        const { margin, cell } = attention.place, scale = mapCanvas.width / mapCanvas.getBoundingClientRect().width;
        const at = (i) => Math.round((margin + cell * (i + .5)) * scale);
        const copy = new OffscreenCanvas(1, 1).getContext("2d");
        copy.drawImage(mapCanvas, -at(arguments[1]), -at(arguments[0]));
        return [...copy.getImageData(0, 0, 1, 1).data];"""
    first, later = page.run(colour, 0, 0), page.run(colour, 3, 9)
    assert first[:3] == [0x1F, 0x56, 0xB8]  # the first token looks at itself alone
    assert later[3] == 0
    page.dark(True)
    deadline = time.monotonic() + 15
    while page.run(colour, 0, 0)[:3] != [0x8A, 0xB4, 0xFA]:
        assert time.monotonic() < deadline
    point = """
        const { margin, cell } = attention.place, box = mapCanvas.getBoundingClientRect();
        mapCanvas.dispatchEvent(new PointerEvent("pointermove", {
          clientX: box.left + margin + cell * 1.5, clientY: box.top + margin + cell * 4.5 }));
        return find("looks").textContent;"""
    assert "(5) looks at " in page.run(point)
    assert "(2) " in page.run("return document.querySelector('#looks .pointed').textContent")


def test_attention_of_a_long_text_says_which_tokens_are_shown(page):
    generate(page, max_tokens=500)
    page.click("input[value=attention]")
    until(page, "attention.weights !== null")
    assert page.run("return find('attention-state').textContent").startswith("Of the first 64 of 65 tokens.")
