"""The widgets of the playground, and what their settings mean. Only this module imports ipywidgets, when it is used."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from npgpt.config import TEMPERATURE, TOP_K
from npgpt.errors import ConfigError
from npgpt.generation.sampling import Sampling
from npgpt.notebook import written
from npgpt.text.tokenizer import Tokenizer

MAX_LENGTH, MAX_TOP_K, MAX_SEED = 1000, 200, 2**31 - 1


@dataclass(frozen=True)
class Strategy:
    """A way to choose the next token.

    sliders     the fields of ``Sampling`` that it uses; without a temperature it is greedy
    says        what it does, in a sentence
    """

    sliders: tuple[str, ...]
    says: str


STRATEGIES = {
    "greedy": Strategy((), "Always the likeliest token. A prompt gives the same text each time."),
    "temperature": Strategy(
        ("temperature",),
        "Any token, by its probability. A temperature below 1 makes likely tokens likelier, above 1 unlikely ones.",
    ),
    "top-k": Strategy(("temperature", "top_k"), "Only the k likeliest tokens, by their probability."),
    "top-p": Strategy(("temperature", "top_p"), "Only the likeliest tokens that together have the probability top-p."),
    "min-p": Strategy(
        ("temperature", "min_p"), "Only tokens that are at least min-p times as likely as the likeliest one."
    ),
    "typical-p": Strategy(
        ("temperature", "typical_p"),
        "Only tokens about as surprising as the model expects, which together have the probability typical-p.",
    ),
}


@dataclass(frozen=True)
class Request:
    """The settings at the moment of a click."""

    prompt: str
    length: int
    sampling: Sampling
    seed: int


class Controls:
    """The widgets. ``root`` is the box that holds them all; the others have names of their own.

    Raises ConfigError without ipywidgets.
    """

    def __init__(self, prompt: str, tokenizer: Tokenizer, vocab_size: int):
        check_installed()
        import ipywidgets as w

        # A model's vocabulary may be padded: those ids are no text.
        self._no_text = range(tokenizer.vocab_size, vocab_size)

        def common(description):  # a layout for each, since they are hidden one by one
            layout = w.Layout(flex="1 1 18em", min_width="0", max_width="28em")
            return {"description": description, "layout": layout, "style": {"description_width": "6.5em"}}

        self.prompt = w.Textarea(prompt, rows=4, layout=w.Layout(width="auto"), placeholder="The text to continue")
        self.strategy = w.Dropdown(options=list(STRATEGIES), value="top-k", **common("Strategy"))
        self.hint = w.HTML()
        most = min(MAX_TOP_K, vocab_size)
        self.sliders = {
            "temperature": w.FloatSlider(TEMPERATURE, min=0.05, max=2, step=0.05, **common("Temperature")),
            "top_k": w.IntSlider(min(TOP_K, most), min=1, max=most, **common("Top-k")),
            "top_p": w.FloatSlider(0.9, min=0.01, max=1, step=0.01, **common("Top-p")),
            "min_p": w.FloatSlider(0.05, min=0, max=1, step=0.01, **common("Min-p")),
            "typical_p": w.FloatSlider(0.9, min=0.01, max=1, step=0.01, **common("Typical-p")),
        }
        self.length = w.IntSlider(100, min=1, max=MAX_LENGTH, **common("Tokens"))
        self.seed = w.BoundedIntText(0, min=0, max=MAX_SEED, **common("Seed"))
        self.new_seed, self.coloured = (
            w.Checkbox(value, description=text, indent=False, layout=w.Layout(width="auto"))
            for value, text in ((True, "A new seed each time"), (False, "Colour tokens by probability"))
        )
        self.button = w.Button()
        self.status = w.HTML()
        self.key = w.HTML(written.colour_key())
        self.output = w.HTML(layout=w.Layout(width="auto"))
        style = w.HTML(f"<style>{written.STYLE}</style>", layout=w.Layout(display="none"))

        def row(*widgets):
            return w.Box(widgets, layout=w.Layout(flex_flow="row wrap", align_items="center", grid_gap="0 1em"))

        self.root = w.VBox(
            [
                style,
                self.prompt,
                row(self.strategy, *self.sliders.values(), self.length, self.seed),
                self.hint,
                row(self.new_seed, self.coloured),
                row(self.button, self.status),
                self.key,
                self.output,
            ],
            layout=w.Layout(width="100%", max_width="60em", grid_gap="0.3em"),
        )
        self._all = [*self.root.children, *(widget for box in self.root.children for widget in _children(box))]
        self.strategy.observe(lambda change: self._show_strategy(), "value")
        self.new_seed.observe(lambda change: self._show_strategy(), "value")
        self.coloured.observe(lambda change: self._show_key(), "value")
        self._show_strategy(), self._show_key()
        self.show_running(False)

    def request(self) -> Request:
        """What the settings say now. A new seed is shown, so that the text can be made again."""
        chosen = STRATEGIES[self.strategy.value]
        if self.new_seed.value:
            self.seed.value = int(np.random.default_rng().integers(MAX_SEED))
        values: dict[str, Any] = {"temperature": 0.0, "top_k": None, "top_p": None}
        values |= {name: self.sliders[name].value for name in chosen.sliders}
        sampling = Sampling(**values).without(self._no_text)
        return Request(self.prompt.value, self.length.value, sampling, self.seed.value)

    def show_running(self, is_running: bool) -> None:
        """Make the button say what a click will do."""
        self.button.description = "Stop" if is_running else "Generate"
        self.button.icon = "stop" if is_running else "play"
        self.button.button_style = "danger" if is_running else "primary"

    def on_close(self, close: Callable[[], object]) -> None:
        """Have ``close`` called when somebody closes the box."""
        self.root.observe(lambda change: close() if change["new"] is None else None, "comm")

    def close(self) -> None:
        """Remove all widgets from the page."""
        for widget in (self.root, *self._all):
            widget.close()

    def _show_strategy(self):
        chosen = STRATEGIES[self.strategy.value]
        self.hint.value = written.note(chosen.says)
        for name, slider in self.sliders.items():
            slider.layout.display = None if name in chosen.sliders else "none"
        drawn = bool(chosen.sliders)
        for widget in (self.seed, self.new_seed):
            widget.layout.display = None if drawn else "none"
        self.seed.disabled = self.new_seed.value

    def _show_key(self):
        self.key.layout.display = None if self.coloured.value else "none"


def check_installed() -> None:
    """Raise ConfigError without ipywidgets."""
    if find_spec("ipywidgets") is None:
        raise ConfigError("npgpt.playground needs the ipywidgets package: pip install 'npgpt[notebook]'")


def _children(widget):
    return getattr(widget, "children", ())
