"""The engine: many texts at once, each the same as alone."""

import asyncio
import threading
from functools import partial

import numpy as np
import pytest
from helpers.texts import random_model

from npgpt import generation
from npgpt.errors import ConfigError
from npgpt.generation import Decoder, Sampling
from npgpt.generation.filters import log_softmax
from npgpt.serving import batch as batch_module
from npgpt.serving.batch import Batch, Job
from npgpt.serving.engine import Busy, Closed, Engine
from npgpt.serving.requests import Made, PromptRead, Request
from npgpt.text.tokenizer import Tokenizer

V, BLOCK = 23, 32


class Letters(Tokenizer):
    """a, b, c ...; the last id ends a text."""

    name = "char"
    end_of_text = V - 1

    def __init__(self):
        super().__init__([bytes([97 + i]) for i in range(V - 1)] + [b""])

    def encode(self, text):
        return np.array([ord(letter) - 97 for letter in text], self.dtype)


@pytest.fixture(scope="module")
def decoder():
    return Decoder(random_model(block_size=BLOCK))


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
    (text,) = generation.generate(
        decoder, [request.ids], request.max_new_tokens, sampling=request.sampling, seed=request.seed,
        stop_ids=request.stop_ids,
    )  # fmt: skip
    return text[len(request.ids) :].tolist()


def run(batch, *jobs):
    """Let jobs join as there is room, until all have ended."""
    waiting = list(jobs)
    while waiting or batch.jobs:
        for job in batch.join(list(waiting)):
            waiting.remove(job)
        batch.step()


def test_texts_that_come_and_go_are_each_as_alone(decoder):
    requests = [
        Request(ids, 1 + 3 * (i % 5), Sampling(temperature=1.0, top_k=0), seed=i, stop_ids=frozenset({V - 1}))
        for i, ids in enumerate(prompts(*range(1, 19)))
    ]
    clients = [Client() for _ in requests]
    with Engine(decoder, Letters(), rows=3) as engine:
        for request, client in zip(requests, clients, strict=True):
            engine.submit([request], client)
        for client in clients:
            client.wait()
    assert [client.ids() for client in clients] == [alone(decoder, request) for request in requests]
    assert engine.state().running == engine.state().waiting == 0
    assert engine.state().made == sum(len(client.ids()) for client in clients)


def test_a_prompt_in_pieces_is_as_in_one(decoder, monkeypatch):
    requests = [Request(ids, 4, Sampling(temperature=0)) for ids in prompts(20, 7, 3)]
    expected = [alone(decoder, request) for request in requests]
    monkeypatch.setattr(batch_module, "PIECE", 6)
    clients = [Client() for _ in requests]
    run(Batch(decoder, Letters(), 3), *(Job(r, 0, c, Letters()) for r, c in zip(requests, clients, strict=True)))
    assert [client.ids() for client in clients] == expected


def test_a_long_prompt_does_not_hold_up_others(decoder, monkeypatch):
    monkeypatch.setattr(batch_module, "PIECE", 4)
    short, long = (Request(ids, 8, Sampling(temperature=0)) for ids in prompts(2, 24))
    batch, clients = Batch(decoder, Letters(), 2), [Client(), Client()]
    jobs = [Job(short, 0, clients[0], Letters()), Job(long, 0, clients[1], Letters())]
    batch.join(jobs)
    for _ in range(6):
        batch.step()
    assert len(clients[0].ids()) == 6
    assert not clients[1].events


def test_what_a_row_holds_is_not_computed_again(decoder):
    (ids,) = prompts(12)
    batch = Batch(decoder, Letters(), 2)
    first, second, third = Client(), Client(), Client()
    run(batch, Job(Request(ids, 3, Sampling(temperature=0)), 0, first, Letters()))
    follow = Request(np.concatenate([ids, first.ids(), prompts(2, seed=5)[0]]), 3, Sampling(temperature=0))
    run(batch, Job(follow, 0, second, Letters()))
    assert second.read().reused == 14  # the last of the three new tokens has not been through the model
    run(batch, Job(Request(np.append(ids[:6], (ids[6] + 1) % 20), 2, Sampling(temperature=0)), 0, third, Letters()))
    assert third.read().reused == 6
    assert batch.reused == 20
    assert second.ids() == alone(decoder, follow)


def test_a_long_text_is_kept_for_the_next_one_like_it(decoder):
    (ids,) = prompts(20)
    batch, other, again = Batch(decoder, Letters(), 2), Client(), Client()
    greedy = Sampling(temperature=0)
    run(batch, Job(Request(ids, 1, greedy), 0, Client(), Letters()))
    run(batch, Job(Request(np.append(ids[:2], (ids[2] + 1) % 20), 1, greedy), 0, other, Letters()))
    run(batch, Job(Request(ids, 1, greedy), 0, again, Letters()))
    assert (other.read().reused, again.read().reused) == (2, 19)


def test_a_prompt_whose_log_probabilities_are_wanted_is_computed(decoder):
    (ids,) = prompts(12)
    batch, client = Batch(decoder, Letters(), 1), Client()
    run(batch, Job(Request(ids, 1), 0, Client(), Letters()))
    run(batch, Job(Request(ids, 0, prompt_logprobs=0), 0, client, Letters()))
    assert client.read().reused == 0
    assert [found.id for found in client.read().logprobs[1:]] == ids[1:].tolist()


def test_several_texts_of_one_prompt_read_it_once(decoder):
    (ids,) = prompts(20)
    requests = [Request(ids, 5, Sampling(temperature=1.0), seed=i) for i in range(3)]
    client = Client(3)
    with Engine(decoder, Letters(), rows=3) as engine:
        engine.submit(requests, client)
        client.wait()
    assert [client.ids(i) for i in range(3)] == [alone(decoder, request) for request in requests]
    assert sorted(client.read(i).reused for i in range(3)) == [0, 19, 19]


def test_the_log_probabilities_of_prompt_and_text(decoder, monkeypatch):
    monkeypatch.setattr(batch_module, "PIECE", 5)
    (ids,) = prompts(13)
    client = Client()
    run(Batch(decoder, Letters(), 1), Job(Request(ids, 0, prompt_logprobs=2), 0, client, Letters()))
    logits = random_model(block_size=BLOCK)(ids[None]).data[0]
    found = client.read().logprobs
    assert found[0] is None
    assert [entry.id for entry in found[1:]] == ids[1:].tolist()
    for i, entry in enumerate(found[1:]):
        expected = log_softmax(logits[i])
        assert entry.logprob == pytest.approx(expected[ids[i + 1]])
        assert len(entry.top) == 2
        assert entry.top[0][1] == pytest.approx(expected.max())
    assert [(event.token, event.ended) for event in client.made()] == [(None, "length")]

    client = Client()
    run(Batch(decoder, Letters(), 1), Job(Request(ids, 1, Sampling(temperature=0), logprobs=1), 0, client, Letters()))
    (event,) = client.made()
    assert event.token.logprob == pytest.approx(log_softmax(logits[-1]).max())
    assert event.token.likeliest


def test_a_text_ends_before_a_stop_string(decoder):
    (ids,) = prompts(5)
    whole, cut = Client(), Client()
    run(Batch(decoder, Letters(), 1), Job(Request(ids, 9, Sampling(temperature=0)), 0, whole, Letters()))
    stop = whole.text()[3:5]
    run(Batch(decoder, Letters(), 1), Job(Request(ids, 9, Sampling(temperature=0), stop=(stop,)), 0, cut, Letters()))
    assert cut.text() == whole.text()[: whole.text().index(stop)]
    assert cut.made()[-1].ended == "stop"
    assert cut.made()[-1].token is not None


def test_an_id_that_the_tokenizer_does_not_know_never_comes():
    model = random_model(block_size=BLOCK, vocab_size=V + 4)
    client = Client()
    requests = [Request(ids, 20, Sampling(temperature=5.0, top_k=0), seed=i) for i, ids in enumerate(prompts(1, 1, 1))]
    with Engine(Decoder(model), Letters(), rows=3) as engine:
        client.texts = 3
        engine.submit(requests, client)
        client.wait()
    assert max(id for i in range(3) for id in client.ids(i)) < V


def test_cancelling_ends_a_text_within_a_token(decoder):
    (ids,) = prompts(3)
    batch, client = Batch(decoder, Letters(), 1), Client()
    job = Job(Request(ids, 20, Sampling(temperature=0)), 0, client, Letters())
    batch.join([job])
    batch.step(), batch.step()
    job.cancelled = True
    batch.step()
    assert len(client.ids()) == 2
    assert client.made()[-1].ended == "cancelled"
    assert not batch.jobs


def test_what_may_begin_a_stop_string_is_told_at_the_end(decoder):
    (ids,) = prompts(3)
    whole, cut = Client(), Client()
    run(Batch(decoder, Letters(), 1), Job(Request(ids, 2, Sampling(temperature=0)), 0, whole, Letters()))
    request = Request(ids, 20, Sampling(temperature=0), stop=(f"{whole.text()}!",))
    batch, job = Batch(decoder, Letters(), 1), Job(request, 0, cut, Letters())
    batch.join([job])
    batch.step(), batch.step()
    assert cut.text() == ""
    job.cancelled = True
    batch.step()
    assert cut.text() == whole.text()


class Blocked:
    """An engine whose thread is held by a function, so that nothing leaves the queue."""

    def __init__(self, decoder, **sizes):
        self.engine = Engine(decoder, Letters(), **sizes)

    def __enter__(self):
        self.engine.start()
        self.go_on, held = threading.Event(), threading.Event()

        def hold():
            held.set()
            assert self.go_on.wait(60)

        self.held = self.engine.run(hold)
        assert held.wait(60)
        return self

    def __exit__(self, *_):
        self.go_on.set()
        self.engine.close()


def test_a_full_queue_refuses_all_of_a_submission(decoder):
    request = Request(prompts(3)[0], 2, Sampling(temperature=0))
    with Blocked(decoder, rows=1, queue=2) as blocked:
        first = Client(3)
        blocked.engine.submit([request] * 3, first)
        with pytest.raises(Busy) as refused:
            blocked.engine.submit([request], Client())
        assert refused.value.retry_after >= 1
        with pytest.raises(ConfigError, match=r"^n: 4 texts at once"):
            blocked.engine.submit([request] * 4, Client())
        blocked.go_on.set()
        first.wait()


def test_cancelling_what_waits(decoder):
    request = Request(prompts(3)[0], 2, Sampling(temperature=0))
    with Blocked(decoder, rows=1, queue=2) as blocked:
        client = Client(2)
        blocked.engine.submit([request] * 2, client).cancel()
        blocked.go_on.set()
        client.wait()
    assert {event.ended for event in client.events} == {"cancelled"}


def test_what_waits_is_cancelled_before_its_turn(decoder):
    request, order = Request(prompts(3)[0], 20, Sampling(temperature=0)), []
    with Blocked(decoder, rows=1) as blocked:
        first, second = Client(), Client()
        blocked.engine.submit([request], lambda event: (order.append("first"), first(event)))
        blocked.engine.submit([request], lambda event: (order.append("second"), second(event))).cancel()
        blocked.go_on.set()
        first.wait(), second.wait()
    assert order.index("second") < len(order) - 1
    assert second.made()[-1].ended == "cancelled"


def test_closing_lets_texts_end_or_cuts_them(decoder):
    request = Request(prompts(3)[0], 5, Sampling(temperature=0))
    for seconds, ended in ((60, "length"), (0, "shutdown")):
        client = Client(2)
        with Blocked(decoder, rows=1) as blocked:
            blocked.engine.submit([request] * 2, client)
            closing = threading.Thread(target=blocked.engine.close, args=(seconds,))
            closing.start()
            while blocked.engine._ends is None:
                pass
            with pytest.raises(Closed):
                blocked.engine.submit([request], Client())
            with pytest.raises(Closed):
                blocked.engine.run(lambda: 0)
            blocked.go_on.set()
            client.wait()
            closing.join(60)
        assert [client.made(i)[-1].ended for i in range(2)] == [ended] * 2


def test_functions_run_on_the_thread_and_their_errors_come_back(decoder):
    with Engine(decoder, Letters()) as engine:
        assert engine.run(lambda: threading.current_thread().name).result(60) == "npgpt engine"
        with pytest.raises(ZeroDivisionError):
            engine.run(lambda: 1 / 0).result(60)


def test_texts_go_on_between_functions(decoder):
    done = []

    def deliver(event):
        if isinstance(event, Made):
            done.append("token")

    with Blocked(decoder, rows=1) as blocked:
        blocked.engine.submit([Request(prompts(3)[0], 3, Sampling(temperature=0))], deliver)
        last = [blocked.engine.run(partial(done.append, "function")) for _ in range(3)][-1]
        blocked.go_on.set()
        last.result(60)
    assert done == ["token", "function"] * 3


def test_a_text_that_fails_leaves_the_others_alone(decoder):
    (ids,) = prompts(3)
    banned = Sampling(temperature=0, logit_bias=dict.fromkeys(range(V), -np.inf))
    bad, good = Client(), Client()
    with Engine(decoder, Letters()) as engine:
        engine.submit([Request(ids, 5, banned)], bad)
        engine.submit([Request(ids, 5, Sampling(temperature=0))], good)
        bad.wait(), good.wait()
    assert bad.made()[-1].ended == "error"
    assert "no token is left" in bad.made()[-1].problem
    assert len(good.ids()) == 5


def test_an_event_that_comes_when_the_loop_is_closed_is_dropped(decoder):
    """It is told on the engine's thread, which would end with an error."""
    texts = pytest.importorskip("npgpt.serving.texts", reason="needs the extra serve")
    told = []

    class Submitting:
        def submit(self, requests, deliver):
            told.append(deliver)

    async def ask():
        return texts.Texts(Submitting(), [Request(np.arange(3), 2)])

    asyncio.run(ask())
    told[0](Made(0, None, "", "length"))


def test_a_mistake_in_a_step_ends_its_texts_and_not_the_engine(decoder, monkeypatch, capsys):
    request, client, again = Request(prompts(3)[0], 5, Sampling(temperature=0)), Client(), Client()
    with Engine(decoder, Letters()) as engine:
        with monkeypatch.context() as broken:
            broken.setattr(decoder, "prefill", lambda *_: 1 / 0)
            engine.submit([request], client)
            client.wait()
        engine.submit([request], again)
        again.wait()
    assert client.made()[-1].ended == "error"
    assert again.ids() == alone(decoder, request)
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": np.array([], int)}, "^ids: whole"),
        ({"ids": np.array([0.5])}, "^ids: whole"),
        ({"ids": np.array([V])}, "^ids: "),
        ({"max_new_tokens": -1}, "^max_new_tokens: a whole"),
        ({"max_new_tokens": BLOCK}, "^max_new_tokens: 3 tokens and 32 new ones"),
        ({"seed": -1}, "^seed: "),
        ({"logprobs": 1.5}, "^logprobs: "),
        ({"stop": ("",)}, "^stop: "),
    ],
)
def test_requests_that_are_refused(decoder, changes, message):
    request = Request(**{"ids": np.array([1, 2, 3]), "max_new_tokens": 5, **changes})
    with pytest.raises(ConfigError, match=message):
        request.check(decoder.config)


def test_all_that_fits_may_be_asked(decoder):
    request, client = Request(np.array([1, 2, 3]), BLOCK - 2, Sampling(temperature=0)), Client()
    request.check(decoder.config)
    run(Batch(decoder, Letters(), 1), Job(request, 0, client, Letters()))
    assert len(client.ids()) == BLOCK - 2
