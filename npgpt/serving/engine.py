"""The engine: a thread that makes texts for many clients at once, and the queue before it."""

import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Self, TypeVar

from npgpt.errors import ConfigError
from npgpt.generation.decoder import Decoder
from npgpt.serving.batch import FAILED, Batch, Job
from npgpt.serving.requests import Deliver, Event, Request
from npgpt.text.tokenizer import Tokenizer

T = TypeVar("T")


class Busy(Exception):
    """The queue is full. ``retry_after``: in how many seconds there may be room, a guess."""

    def __init__(self, retry_after: int):
        super().__init__(f"too many texts are waiting: try again in {retry_after} s")
        self.retry_after = retry_after


class Closed(Exception):
    """The engine takes nothing new: it is being closed."""


@dataclass(frozen=True)
class State:
    """How the engine is doing.

    running, waiting    texts
    rows, queue         how many of them there can be
    made                tokens chosen since the start
    reused              ids of prompts that were not computed, because the cache held them
    """

    running: int
    waiting: int
    rows: int
    queue: int
    made: int
    reused: int


class Submission:
    """Requests that were submitted together."""

    def __init__(self, jobs: list[Job], wake: Callable[[], None]):
        self._jobs, self._wake = jobs, wake

    def cancel(self) -> None:
        """End its texts within a token, with "cancelled", unless they have ended. Any thread may say so."""
        for job in self._jobs:
            job.cancelled = True
        self._wake()


class Engine:
    """Makes texts by a thread of its own, which alone computes: two threads must not call kernels at the same time.

    rows        texts that are made together. Each has a row of the cache, whose memory is touched as it is filled
    queue       texts that may wait for a row

    ``with engine:`` starts the thread, and closes the engine at the end.
    """

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer, rows: int = 8, queue: int = 64):
        if rows < 1 or queue < 0:
            raise ConfigError(f"an engine needs at least one row and a queue of at least 0, not {rows} and {queue}")
        self.decoder, self.tokenizer, self.config = decoder, tokenizer, decoder.config
        self.rows, self.queue = rows, queue
        self._batch = Batch(decoder, tokenizer, rows)
        self._events: list[tuple[Deliver, Event]] = []  # that are still to be told
        self._changed = threading.Condition()  # guards what follows
        self._waiting: deque[Job] = deque()
        self._functions: deque[tuple[Callable[[], Any], Future]] = deque()
        self._ends: float | None = None  # when the engine is being closed: the time at which texts are cut
        self._thread = threading.Thread(target=self._work, name="npgpt engine", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, requests: Sequence[Request], deliver: Deliver) -> Submission:
        """Take all requests, or none.

        deliver     is called on the engine's thread with each event of each text, and must neither block nor raise

        Raises ConfigError, which begins with the field's name, if a request can't be; Busy, and Closed.
        """
        for request in requests:
            request.check(self.config)
        if len(requests) > self.rows + self.queue:
            raise ConfigError(f"n: {len(requests)} texts at once are more than the {self.rows + self.queue} possible")
        later = partial(self._tell_later, deliver)
        jobs = [Job(request, number, later, self.tokenizer) for number, request in enumerate(requests)]
        with self._changed:
            if self._ends is not None:
                raise Closed("the server is shutting down")
            free = self.rows - len(self._batch.jobs)
            if len(self._waiting) + len(jobs) > self.queue + free:
                raise Busy(1 + len(self._waiting) // self.rows)
            self._waiting += jobs
            self._changed.notify()
        return Submission(jobs, self._wake)

    def run(self, function: Callable[[], T]) -> "Future[T]":
        """Call a function on the engine's thread between two steps, at most one between any two. Raises Closed."""
        future: Future[T] = Future()
        with self._changed:
            if self._ends is not None:
                raise Closed("the server is shutting down")
            self._functions.append((function, future))
            self._changed.notify()
        return future

    def state(self) -> State:
        """How it is doing now."""
        with self._changed:
            batch = self._batch
            return State(len(batch.jobs), len(self._waiting), self.rows, self.queue, batch.made, batch.reused)

    def close(self, seconds: float = 5) -> None:
        """Take nothing new; let texts end for so many seconds, then end them with "shutdown"."""
        with self._changed:
            ends = monotonic() + seconds
            self._ends = ends if self._ends is None else min(ends, self._ends)
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _wake(self):
        with self._changed:
            self._changed.notify()

    def _work(self):
        while self._take():
            try:
                self._batch.step()
            except Exception as error:  # a mistake in npgpt, or no memory: these texts are lost, the server isn't
                traceback.print_exception(error)
                self._batch.end_all("error", FAILED)
            self._tell()
        self._tell()
        for _, future in self._functions:  # nobody adds to them any more
            future.cancel()

    def _tell_later(self, deliver, event):
        """What is told wakes other threads. That must not hold up a step, so it is done after it."""
        self._events.append((deliver, event))

    def _tell(self):
        for deliver, event in self._events:
            deliver(event)
        self._events.clear()

    def _take(self) -> bool:
        """Wait for work and take it; False when the engine has been closed."""
        with self._changed:
            while not (self._waiting or self._functions or self._batch.jobs or self._ends is not None):
                self._changed.wait()
            function = self._functions.popleft() if self._functions else None
        if function:  # one at a time, so that texts go on between two
            _run(*function)
        with self._changed:
            late = self._ends is not None and monotonic() >= self._ends
            cut = [job for job in self._waiting if late or job.cancelled]
            for job in cut:
                self._waiting.remove(job)
            for job in self._batch.join(self._waiting):
                self._waiting.remove(job)
            done = self._ends is not None and not (self._batch.jobs or self._waiting or self._functions)
        for job in cut:
            job.end("cancelled" if job.cancelled else "shutdown")
        if late:
            self._batch.end_all("shutdown")
        return not (done or late)


def _run(function, future):
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
