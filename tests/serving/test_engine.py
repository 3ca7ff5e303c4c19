"""The engine: the thread, the queue before it, and what is refused."""

import asyncio
import threading
import time
from functools import partial

import numpy as np
import pytest
from helpers.clients import BLOCK, Client, Letters, V, alone, prompts
from helpers.texts import random_model

from npgpt.errors import ConfigError
from npgpt.generation import Decoder, Sampling
from npgpt.generation.cache import KeyValueCache
from npgpt.serving.engine import Busy, Closed, Engine
from npgpt.serving.requests import Made, Request


@pytest.fixture(scope="module")
def decoder():
    return Decoder(random_model(block_size=BLOCK))


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


def test_several_texts_of_one_prompt_read_it_once(decoder):
    (ids,) = prompts(20)
    requests = [Request(ids, 5, Sampling(temperature=1.0), seed=i) for i in range(3)]
    client = Client(3)
    with Engine(decoder, Letters(), rows=3) as engine:
        engine.submit(requests, client)
        client.wait()
    assert [client.ids(i) for i in range(3)] == [alone(decoder, request) for request in requests]
    assert sorted(client.read(i).reused for i in range(3)) == [0, 19, 19]


def test_an_id_that_the_tokenizer_does_not_know_never_comes():
    model = random_model(block_size=BLOCK, vocab_size=V + 4)
    client = Client()
    requests = [Request(ids, 20, Sampling(temperature=5.0, top_k=0), seed=i) for i, ids in enumerate(prompts(1, 1, 1))]
    with Engine(Decoder(model), Letters(), rows=3) as engine:
        client.texts = 3
        engine.submit(requests, client)
        client.wait()
    assert max(id for i in range(3) for id in client.ids(i)) < V


class Blocked:
    """An engine whose thread is held by a function, so that nothing leaves the queue."""

    def __init__(self, decoder, **sizes):
        self.engine, self.go_on = Engine(decoder, Letters(), **sizes), threading.Event()

    def __enter__(self):
        self.engine.start()
        self.hold()
        return self

    def hold(self):
        """Hold it before its next step but one; what held it goes on."""
        before, self.go_on, held = self.go_on, threading.Event(), threading.Event()

        def wait(go_on=self.go_on):
            held.set()
            assert go_on.wait(60)

        self.engine.run(wait)
        before.set()
        assert held.wait(60)

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
        assert refused.value.retry_after == 4  # a second for each that waits for the one row, and one more
        with pytest.raises(ConfigError, match=r"^n: 4 texts at once"):
            blocked.engine.submit([request] * 4, Client())
        blocked.go_on.set()
        first.wait()


def test_a_row_that_is_taken_is_no_room(decoder):
    request = Request(prompts(3)[0], 20, Sampling(temperature=0))
    with Blocked(decoder, rows=1, queue=2) as blocked:
        running, waiting = Client(), Client(2)
        blocked.engine.submit([request], running)
        blocked.hold()
        state = blocked.engine.state()
        assert (state.running, state.waiting) == (1, 0)
        with pytest.raises(Busy):
            blocked.engine.submit([request] * 3, Client())
        blocked.engine.submit([request] * 2, waiting)
        blocked.go_on.set()
        running.wait(), waiting.wait()


@pytest.mark.parametrize(("rows", "queue"), [(0, 1), (1, -1)])
def test_an_engine_has_a_row(decoder, rows, queue):
    with pytest.raises(ConfigError, match="at least one row and a queue of at least 0"):
        Engine(decoder, Letters(), rows, queue)


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


@pytest.mark.parametrize(("seconds", "ended"), [((60, 60), "length"), ((0, 60), "shutdown"), ((60, 0), "shutdown")])
def test_closed_twice_the_shorter_time_counts(decoder, seconds, ended):
    client, engine = Client(), Engine(decoder, Letters())
    engine.submit([Request(prompts(3)[0], 5, Sampling(temperature=0))], client)
    for of_one in seconds:
        engine.close(of_one)
    engine.start()
    client.wait()
    assert client.made()[-1].ended == ended


def test_a_function_that_is_not_called_any_more_is_cancelled(decoder):
    engine, called = Engine(decoder, Letters()), []
    functions = [engine.run(partial(called.append, i)) for i in range(3)]
    engine.close(0)
    engine.start()
    engine._thread.join(60)
    assert called == [0]
    assert [future.cancelled() for future in functions] == [False, True, True]


def test_closing_waits_for_the_texts(decoder):
    client, engine = Client(), Engine(decoder, Letters())
    engine.start()
    engine.run(lambda: time.sleep(0.05))
    engine.submit([Request(prompts(3)[0], 5, Sampling(temperature=0))], client)
    engine.close(60)
    assert client.made()[-1].ended == "length"


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
    assert len(good.ids()) == engine.state().made == 5


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


@pytest.mark.parametrize(("owner", "name"), [(Decoder, "prefill"), (KeyValueCache, "copy_from")])
def test_a_mistake_in_a_step_ends_its_texts_and_not_the_engine(decoder, monkeypatch, capsys, owner, name):
    """What its rows hold may be half written, and is not used again."""
    request, client, again = Request(prompts(3)[0], 5, Sampling(temperature=0)), Client(), Client()
    with Engine(decoder, Letters()) as engine:
        engine.submit([request], first := Client())
        first.wait()
        with monkeypatch.context() as broken:
            broken.setattr(owner, name, lambda *_: 1 / 0)
            engine.submit([request], client)
            client.wait()
            assert (engine.state().running, engine.state().waiting) == (0, 0)
        engine.submit([request], again)
        again.wait()
    assert client.made()[-1].ended == "error"
    assert again.ids() == alone(decoder, request)
    assert again.read().reused == (0 if name == "prefill" else 2)  # before it copies, the row is as it was
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
