"""For tests of the server's batch and engine: a tokenizer, prompts, and a client that collects what it is told."""

import threading

import numpy as np

from npgpt import generation
from npgpt.serving.requests import Made, PromptRead
from npgpt.text.tokenizer import Tokenizer

V, BLOCK = 23, 32  # ids, and positions of the model


class Letters(Tokenizer):
    """a, b, c ...; the last id ends a text."""

    name = "char"
    end_of_text = V - 1

    def __init__(self):
        super().__init__([bytes([97 + i]) for i in range(V - 1)] + [b""])

    def encode(self, text):
        return np.array([ord(letter) - 97 for letter in text], self.dtype)


class Client:
    """Collects events, and can wait for the end of its texts."""

    def __init__(self, texts=1):
        self.events, self.ended = [], threading.Semaphore(0)
        self.texts = texts

    def __call__(self, event):
        self.events.append(event)
        if isinstance(event, Made) and event.ended:
            self.ended.release()

    def wait(self):
        for _ in range(self.texts):
            assert self.ended.acquire(timeout=60)
        return self

    def made(self, text=0):
        return [event for event in self.events if isinstance(event, Made) and event.text == text]

    def ids(self, text=0):
        return [event.token.id for event in self.made(text) if event.token]

    def text(self, text=0):
        return "".join(event.piece for event in self.made(text))

    def read(self, text=0):
        (event,) = [event for event in self.events if isinstance(event, PromptRead) and event.text == text]
        return event


def prompts(*lengths, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(V - 1, size=length) for length in lengths]


def alone(decoder, request):
    """The ids that a request gets without a server."""
    (text,) = generation.generate(
        decoder, [request.ids], request.max_new_tokens, sampling=request.sampling, seed=request.seed,
        stop_ids=request.stop_ids,
    )  # fmt: skip
    return text[len(request.ids) :].tolist()
