"""The playground's widgets, driven as a person drives them, in this process; and one real kernel."""

import asyncio
import html
import re
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.models import with_random_parameters

import npgpt
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError, ConfigError
from npgpt.explain import SHIPPED
from npgpt.generation import Decoder, generate
from npgpt.gpt import GPT
from npgpt.notebook.controls import STRATEGIES, Controls
from npgpt.notebook.playground import _summary
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer

pytest.importorskip("ipywidgets", reason="needs ipywidgets: pip install 'npgpt[notebook]'")

BYTES = ByteTokenizer()
CONFIG = GPTConfig(vocab_size=260, block_size=16, n_layer=1, n_head=1, n_embd=8)  # three ids are no text
# What each strategy means, in the words of ``generate``.
MEANING = {
    "greedy": {"temperature": 0},
    "temperature": {"temperature": 1.5, "top_k": 0},
    "top-k": {"temperature": 1.5, "top_k": 7},
    "top-p": {"temperature": 1.5, "top_k": 0, "top_p": 0.6},
    "min-p": {"temperature": 1.5, "top_k": 0, "min_p": 0.4},
    "typical-p": {"temperature": 1.5, "top_k": 0, "typical_p": 0.5},
}


@pytest.fixture(scope="module")
def model():
    return with_random_parameters(GPT(CONFIG))


@pytest.fixture
def made(model):
    """A playground with a fixed seed, and sliders that are not at their defaults."""
    playground = npgpt.playground(model, BYTES, "An")
    set_up(playground, 5)
    yield playground
    playground.close()


def set_up(playground, seed, length=12):
    controls = playground.controls
    controls.new_seed.value, controls.seed.value, controls.length.value = False, seed, length
    for name, value in {"temperature": 1.5, "top_k": 7, "top_p": 0.6, "min_p": 0.4, "typical_p": 0.5}.items():
        controls.sliders[name].value = value


def expected(model, seed, length=12, prompt="An", **options):
    """The text that ``generate`` makes: as ids, and as the playground writes it."""
    ids = BYTES.encode_prompt(prompt)
    bans = dict.fromkeys(range(257, 260), -np.inf)
    (text,) = generate(model, [ids], length, seed=seed, stop_ids=[256], logit_bias=bans, **options)
    decoder = BYTES.decoder()
    return "".join(decoder.decode(id) for id in text[len(ids) :] if id != 256)


class Endless(Decoder):
    """A model that never ends a text, and is slow enough for the output to be replaced before the last token."""

    def step(self, *given):
        return self._without_end(super().step(*given))

    def prefill(self, *given):
        return self._without_end(super().prefill(*given))

    def _without_end(self, logits):
        logits[:, BYTES.end_of_text] = -np.inf
        return logits


async def until(condition, playground):
    """Let the event loop turn until ``condition()``; a text that ends before fails the test."""
    while not condition():
        assert playground.is_running, "the text has ended"
        await asyncio.sleep(0)


async def ended(*playgrounds):
    while any(playground.is_running for playground in playgrounds):
        await asyncio.sleep(0)


def shown(playground):
    """The output without its markup."""
    return html.unescape(re.sub(r"<[^>]*>", "", playground.controls.output.value))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_click_makes_the_text_that_generate_makes(strategy, made, model):
    assert MEANING.keys() == STRATEGIES.keys()
    made.controls.strategy.value = strategy

    async def scenario():
        made.controls.button.click()
        assert (made.is_running, made.controls.button.description) == (True, "Stop")
        await ended(made)

    asyncio.run(scenario())
    assert made.text == expected(model, 5, **MEANING[strategy])
    assert shown(made) == "An" + made.text
    assert made.controls.button.description == "Generate"
    assert re.search(r"\d+ tokens, [\d,.]+ tokens/s", made.controls.status.value)


def test_without_an_event_loop_a_click_returns_when_the_text_is_complete(made, model):
    made.controls.button.click()
    assert made.text == expected(model, 5, **MEANING["top-k"])
    assert not made.is_running


def test_each_strategy_shows_its_own_sliders(made):
    for name, strategy in STRATEGIES.items():
        made.controls.strategy.value = name
        visible = {slider for slider, widget in made.controls.sliders.items() if widget.layout.display != "none"}
        assert visible == set(strategy.sliders)
        assert (made.controls.seed.layout.display == "none") == (name == "greedy")
        assert strategy.says in html.unescape(made.controls.hint.value)


def test_k_is_at_most_the_number_of_ids():
    for size, most in ((5, 5), (1000, 200)):
        controls = Controls("", CharTokenizer("abc"), size)
        assert controls.sliders["top_k"].max == most
        controls.close()


def test_the_more_there_is_to_show_the_less_often_it_is_shown(made, monkeypatch):
    for most_sent, shown_often in ((10**9, True), (1, False)):  # characters a second
        monkeypatch.setattr("npgpt.notebook.playground.SHOW_EVERY", 0)
        monkeypatch.setattr("npgpt.notebook.playground.MOST_SENT", most_sent)
        values = []
        made.controls.output.observe(lambda change, values=values: values.append(change["new"]), "value")
        made.start()
        made.controls.output.unobserve_all()
        assert (len(values) > 4) == shown_often  # empty, its first token, the whole


def test_how_fast_tokens_came_after_the_first():
    tokens = SimpleNamespace(tokens=3, seconds=2.5, seconds_to_first=0.5)
    assert _summary(tokens, "Stopped") == "3 tokens, 1.0 tokens/s. Stopped"
    assert _summary(SimpleNamespace(tokens=1, seconds=0.5, seconds_to_first=0.5), None) == "1 token"


def test_a_second_click_stops(model, monkeypatch):
    monkeypatch.setattr("npgpt.notebook.playground.SHOW_EVERY", 0)
    playground = npgpt.playground(Endless(model), BYTES, "An")
    set_up(playground, 5, 1000)
    values = []
    playground.controls.output.observe(lambda change: values.append(change["new"]), "value")

    async def scenario():
        playground.controls.button.click()
        await until(lambda: len(values) >= 6, playground)
        playground.controls.button.click()
        await ended(playground)

    asyncio.run(scenario())
    whole = expected(Endless(model), 5, 1000, **MEANING["top-k"])
    assert 0 < len(playground.text) < 20 < len(whole)
    assert whole.startswith(playground.text)
    assert len(set(values)) >= 4  # the text was shown while it was made
    assert "Stopped" in playground.controls.status.value
    playground.controls.length.value = 12
    playground.start()
    assert playground.text == whole[: len(playground.text)]  # the stop was for the text before
    assert "12 tokens" in playground.controls.status.value
    playground.close()


def test_two_at_once_make_what_each_makes_alone(made, model):
    other = npgpt.playground(model, BYTES, "An")
    set_up(other, 6, 30)

    async def scenario():
        made.controls.button.click()
        other.controls.button.click()
        await asyncio.sleep(0)
        assert made.is_running
        assert other.is_running
        await ended(made, other)

    asyncio.run(scenario())
    assert made.text == expected(model, 5, **MEANING["top-k"])
    assert other.text == expected(model, 6, 30, **MEANING["top-k"])
    other.close()


@pytest.mark.parametrize("close", [lambda made: made.close(), lambda made: made.controls.root.close()])
def test_closing_stops(close, model):
    playground = npgpt.playground(Endless(model), BYTES, "An")
    set_up(playground, 5, 1000)

    async def scenario():
        playground.controls.button.click()
        await until(lambda: playground.text, playground)
        close(playground)
        length = len(playground.text)
        await ended(playground)
        assert len(playground.text) <= length + 1

    asyncio.run(scenario())
    assert playground.controls.root.comm is None
    assert playground.controls.button.comm is None
    assert playground._repr_mimebundle_() == {"text/plain": "a closed playground"}


def test_running_a_cell_again_closes_what_it_made_before(model, monkeypatch):
    place = npgpt.notebook.playground._Place
    monkeypatch.setattr("npgpt.notebook.playground._place", lambda: place("cell", "first run"))
    first, beside_it = (npgpt.playground(model, BYTES) for _ in range(2))
    monkeypatch.setattr("npgpt.notebook.playground._place", lambda: place("another cell", "its run"))
    elsewhere = npgpt.playground(model, BYTES)
    assert all(playground.controls.root.comm for playground in (first, beside_it, elsewhere))
    monkeypatch.setattr("npgpt.notebook.playground._place", lambda: place("cell", "second run"))
    again = npgpt.playground(model, BYTES)
    assert [playground.controls.root.comm is None for playground in (first, beside_it, elsewhere, again)] == [
        True,
        True,
        False,
        False,
    ]
    for playground in (elsewhere, again):
        playground.close()


def test_no_text_becomes_markup(model, monkeypatch):
    attack = "<img src=x onerror=alert(1)>&amp;'\""
    playground = npgpt.playground(model, BYTES, attack)
    set_up(playground, 0, len(attack))
    for coloured in (False, True):
        letters = iter(attack.encode())
        monkeypatch.setattr("npgpt.generation.sampling.Sampling.next_token", lambda *given, it=letters: next(it))
        playground.controls.coloured.value = coloured
        playground.start()
        assert playground.text == attack
        value = playground.controls.output.value
        assert set(re.findall(r"</?(\w*)", value)) == {"div", "span"}
        assert "&amp;amp;" in value
        assert shown(playground) == attack * 2
    assert value.count("title=") == len(attack)
    playground.close()


def test_errors_are_sentences_in_the_output(model):
    some = npgpt.playground(model, CharTokenizer("abc"), "ab\u2028<i>")
    some.start()
    assert "is unknown to this tokenizer" in shown(some)
    assert "<i>" not in some.controls.output.value
    assert not some.is_running
    some.controls.prompt.value = "ab"
    some.start()
    assert "unknown" not in shown(some)
    some.close()
    damaged = with_random_parameters(GPT(CONFIG))
    damaged.ln_f.weight.data[:] = np.nan
    some = npgpt.playground(damaged, BYTES, "An")
    some.start()
    assert "the model's logits are not finite" in shown(some)
    some.close()


def test_a_gpt_shows_what_training_has_done_since(model):
    changing = with_random_parameters(GPT(CONFIG))
    playground = npgpt.playground(changing, BYTES, "An")
    set_up(playground, 5)
    playground.start()
    first = playground.text
    with_random_parameters(changing, seed=1)
    playground.start()
    assert playground.text != first
    assert playground.text == expected(changing, 5, **MEANING["top-k"])
    playground.close()


def test_a_new_seed_is_shown_so_that_the_text_can_be_made_again(made):
    made.controls.new_seed.value = True
    made.start()
    first, seed = made.text, made.controls.seed.value
    made.start()
    assert (made.text, made.controls.seed.value) != (first, seed)
    made.controls.new_seed.value, made.controls.seed.value = False, seed
    made.start()
    assert made.text == first


def test_what_a_model_can_be_and_its_tokenizer(model, monkeypatch):
    from_path = npgpt.playground(SHIPPED)
    assert from_path.tokenizer.name == "bpe"
    decoder = npgpt.playground(Decoder(model), BYTES)
    assert decoder.tokenizer is BYTES
    gpt2 = npgpt.playground(GPT(GPTConfig(vocab_size=50257, block_size=2, n_layer=1, n_head=1, n_embd=1)))
    assert gpt2.tokenizer.name == "gpt2"
    with pytest.raises(ConfigError, match=r"260 ids mean is unknown: npgpt.playground\(model, tokenizer\)"):
        npgpt.playground(model)
    with pytest.raises(ConfigError, match=r"model must be a GPT, a Decoder, or the name .* not 3"):
        npgpt.playground(3)
    with pytest.raises(ConfigError, match="it is another model's"):
        npgpt.playground(model, gpt2.tokenizer)
    with pytest.raises(CheckpointError, match="no such file"):
        npgpt.playground("no/such/run")
    for playground in (from_path, decoder, gpt2):
        playground.close()
    monkeypatch.setattr("npgpt.notebook.controls.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'npgpt\[notebook\]'"):
        npgpt.playground(model, BYTES)


def test_npgpt_playground_is_the_function_whatever_was_imported():
    import npgpt.notebook.playground

    assert callable(npgpt.playground)
    assert npgpt.notebook.playground.playground is npgpt.playground
    assert "playground" in dir(npgpt)
    assert Controls.__module__ == "npgpt.notebook.controls"
