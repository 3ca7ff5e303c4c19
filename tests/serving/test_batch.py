"""The batch: many texts at once, each the same as alone."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.clients import BLOCK, Client, Letters, alone, prompts
from helpers.texts import random_model

from npgpt.generation import Decoder, Sampling
from npgpt.generation.filters import log_softmax
from npgpt.serving import batch as batch_module
from npgpt.serving.batch import Batch, Job
from npgpt.serving.requests import Request


@pytest.fixture(scope="module")
def decoder():
    return Decoder(random_model(block_size=BLOCK))


def run(batch, *jobs):
    """Let jobs join as there is room, until all have ended."""
    waiting = list(jobs)
    while waiting or batch.jobs:
        for job in batch.join(list(waiting)):
            waiting.remove(job)
        batch.step()


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
    run(Batch(decoder, Letters(), 1), Job(replace(request, max_new_tokens=2), 0, full := Client(), Letters()))
    assert (full.text(), full.made()[-1].ended) == (whole.text(), "length")


def test_all_that_fits_may_be_asked(decoder):
    request, client = Request(np.array([1, 2, 3]), BLOCK - 2, Sampling(temperature=0)), Client()
    request.check(decoder.config)
    run(Batch(decoder, Letters(), 1), Job(request, 0, client, Letters()))
    assert len(client.ids()) == BLOCK - 2
