"""npgpt.playground: try a model in a notebook. A text is made a token at a time, and the notebook goes on meanwhile.

Kernels are not for two threads at once, and a cell computes on the notebook's main thread. So texts are made there too,
by a task of its event loop, which gives way after each token: a cell runs between two tokens, never beside them, and
several playgrounds take turns. A click may come on another thread (JupyterLab 4.4 sends clicks to a subshell of the
kernel). It sets an event that the task looks at, or asks the loop for a new task.
"""

import asyncio
import sys
from pathlib import Path
from threading import Event
from time import monotonic
from typing import NamedTuple
from weakref import WeakSet

import numpy as np

from npgpt.checkpoints.reading import make_model, open_checkpoint
from npgpt.checkpoints.shared.tokenizers import by_size
from npgpt.errors import ConfigError, UserError
from npgpt.generation.decoder import Decoder
from npgpt.generation.output import Stopwatch
from npgpt.generation.stream import stream
from npgpt.gpt import GPT
from npgpt.notebook import written
from npgpt.notebook.controls import Controls, Request, check_installed
from npgpt.notebook.written import WrittenText
from npgpt.precompile import compile_for_sampling
from npgpt.text.tokenizer import Tokenizer

SHOW_EVERY = 0.1  # seconds
MOST_SENT = 200_000  # characters of HTML a second: Jupyter's server holds back a kernel that sends a million bytes


def playground(model: GPT | Decoder | str | Path, tokenizer: Tokenizer | None = None, prompt: str = "") -> "Playground":
    """Show widgets to try a model with: a prompt, how tokens are drawn, and the text as it is made.

    model       a GPT, which is prepared anew for each text, so a text shows what training has done meanwhile; a
                ``Decoder`` (``model.quantize("int8")``); or what ``npgpt.load`` takes: a run, a folder, a file, "gpt2"
    tokenizer   None: the one that comes with a path. A model of 50,257 ids has GPT-2's
    prompt      stands in the text area at first

    When a notebook's cell runs again, the playground that it made before is closed.

    Raises ConfigError without ipywidgets, if it is no model, or if a tokenizer is needed or has more ids than the
    model; CheckpointError as ``npgpt.load`` does.
    """
    check_installed()
    if isinstance(model, str | Path):
        checkpoint = open_checkpoint(model)
        tokenizer = tokenizer or checkpoint.require_tokenizer()
        model = Decoder(make_model(checkpoint))
    if not isinstance(model, GPT | Decoder):
        raise ConfigError(f"model must be a GPT, a Decoder, or the name of a model's folder or file, not {model!r:.80}")
    size = model.config.vocab_size
    tokenizer = tokenizer or by_size(size)()
    if tokenizer is None:
        raise ConfigError(f"what the model's {size:,} ids mean is unknown: npgpt.playground(model, tokenizer)")
    if tokenizer.vocab_size > size:
        raise ConfigError(f"the tokenizer has {tokenizer.vocab_size:,} ids, the model {size:,}: it is another model's")
    made = Playground(model, tokenizer, prompt)
    for other in list(_open):
        if made.place.is_another_run(other.place):
            other.close()
    _open.add(made)
    return made


class _Place(NamedTuple):
    """A cell of the notebook, and which run of it. None: unknown."""

    cell: str | None
    run: str | None

    def is_another_run(self, other: "_Place") -> bool:
        """Whether both are runs of one cell, and not the same one."""
        return self.cell is not None and self.cell == other.cell and self.run != other.run


class Playground:
    """The widgets, and the task that makes a text. It shows itself; ``controls.root`` goes into boxes of ipywidgets.

    A text is made between the cells of the notebook, on the thread that made the playground. Where there is no event
    loop, as in plain Python, ``start`` returns when the text is complete.
    """

    def __init__(self, model: GPT | Decoder, tokenizer: Tokenizer, prompt: str = ""):
        self.controls = Controls(prompt, tokenizer, model.config.vocab_size)
        self.tokenizer, self.place = tokenizer, _place()
        self._model, self._loop = model, _running_loop()
        self._stop: Event | None = None  # of the text that is being made
        self._written: WrittenText | None = None
        self._error = ""
        self.controls.button.on_click(lambda button: self.start() if self._stop is None else self.stop())
        self.controls.coloured.observe(lambda change: self._show(), "value")
        self.controls.on_close(self.close)

    @property
    def text(self) -> str:
        """The new text so far, without the prompt."""
        return "" if self._written is None else self._written.plain

    @property
    def is_running(self) -> bool:
        return self._stop is not None

    def start(self) -> None:
        """Make a text with the settings as they are, as the button does; nothing if one is being made."""
        if self._stop is not None:
            return
        self._stop = Event()
        self._written, self._error = None, ""
        request = self.controls.request()
        self.controls.show_running(True)
        self.controls.status.value = written.note("Waits for its turn ...")
        loop = self._loop if self._loop is not None and self._loop.is_running() else _running_loop()
        if loop is None:
            asyncio.run(self._make(request, self._stop))
        else:
            loop.call_soon_threadsafe(self._begin, request, self._stop)

    def stop(self) -> None:
        """End the text with the token that is being made. It can be called on any thread."""
        stop = self._stop  # taken once: the text may end meanwhile, on the loop's thread
        if stop is not None:
            stop.set()

    def close(self) -> None:
        """Stop, and remove the widgets from the page."""
        self.stop()
        _open.discard(self)
        self.controls.close()

    def _begin(self, request, stop):
        # Kept here, since the loop's own reference to a task is weak.
        self._task = asyncio.get_running_loop().create_task(self._make(request, stop))

    async def _make(self, request, stop):
        status = ""
        try:
            status = await self._write(request, stop)
        except (UserError, FloatingPointError) as error:
            self._error = str(error)
        except Exception as error:  # nobody waits for a task: it would fail unseen
            self._error = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._stop = None
            self._show()
            self.controls.status.value = written.note(status)
            self.controls.show_running(False)

    async def _write(self, request: Request, stop: Event) -> str:
        """Make the text -> what can be said of it at the end."""
        ids = self.tokenizer.encode_prompt(request.prompt)
        self._written = text = WrittenText(request.prompt, self.tokenizer)
        self._show()
        decoder = Decoder.of(self._model)
        self.controls.status.value = written.note("Prepares the model ...")
        await _compile(decoder, len(ids), request.length, stop)
        sampling, seed, stop_ids = request.sampling, request.seed, self.tokenizer.stop_ids
        tokens = Stopwatch(stream(decoder, [ids], request.length, sampling, seed, stop_ids=stop_ids, logprobs=0))
        making, ended, show_at = iter(tokens), None, 0.0
        while not stop.is_set() and ended is None:
            token = next(making)
            text.add(token)
            ended = token.ended
            if monotonic() >= show_at:
                sent = self._show()
                self.controls.status.value = written.note(f"{tokens.tokens:,} of {request.length:,} tokens")
                show_at = monotonic() + max(SHOW_EVERY, sent / MOST_SENT)
            await asyncio.sleep(0)
        return _summary(tokens, {"stop": "The model ended the text", None: "Stopped"}.get(ended))

    def _show(self) -> int:
        """Replace the output -> its size in characters."""
        parts = [] if self._written is None else [self._written.html(self.controls.coloured.value)]
        if self._error:
            parts.append(written.error(self._error))
        self.controls.output.value = "".join(parts)
        return len(self.controls.output.value)

    def _repr_mimebundle_(self, **options):
        show = self.controls.root._repr_mimebundle_  # None once it is closed
        return show(**options) if show else {"text/plain": "a closed playground"}


_open: "WeakSet[Playground]" = WeakSet()


async def _compile(decoder, prompt, length, stop):
    """Compile the kernels on all cores, if it has not been done before. The thread only waits for those processes."""
    if decoder.dtype == np.float32 and decoder.weights is not None:
        await asyncio.to_thread(
            compile_for_sampling, decoder.config, prompt, length, decoder.weights, decoder.cache_dtype, 0, stop.is_set
        )


def _summary(tokens, reason):
    """The number of tokens, and how fast they came after the first, which waits for the prompt to be read."""
    said = [f"{tokens.tokens:,} token{'s' * (tokens.tokens != 1)}"]
    if tokens.tokens > 1:
        seconds = tokens.seconds - tokens.seconds_to_first
        said.append(f"{(tokens.tokens - 1) / max(seconds, 1e-9):,.1f} tokens/s")
    return ". ".join([", ".join(said), *([reason] if reason else [])])


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _place() -> _Place:
    """Where this is called, as far as the notebook tells: Jupyter's message that a cell is to be run names it."""
    IPython = sys.modules.get("IPython")  # which has long been imported in a notebook
    message = getattr(IPython and IPython.get_ipython(), "get_parent", dict)()
    return _Place(message.get("metadata", {}).get("cellId"), message.get("header", {}).get("msg_id"))
