"""Texts that are made together. They join and leave between two steps: continuous batching.

A step of the model costs little more for eight texts than for one, since it reads the same weights. So all texts take
their steps together. One that ends leaves its row of the cache at once, and the next one begins there, while the others
go on (Yu et al. 2022, "Orca", section 3.2).

Prompts are read in pieces of PIECE ids, one piece a step, so that a long prompt doesn't hold up the texts that are
being made (Agrawal et al. 2023, "Sarathi"). A row keeps what its last text left in it. A prompt that begins like it
takes over what they share (prefix reuse): a conversation's next question, or the same instructions for another
document.
"""

import traceback
from collections.abc import Iterable

import numpy as np

from npgpt.generation.decoder import Decoder
from npgpt.generation.logprobs import TokenLogprobs, token_logprobs
from npgpt.generation.prefix import shared_length
from npgpt.generation.stop import StopTexts
from npgpt.generation.text_in_progress import TextInProgress, next_token
from npgpt.serving.requests import Deliver, Made, PromptRead, Request
from npgpt.text.tokenizer import Tokenizer

PIECE = 256  # ids of prompts that go through the model between two tokens of the others: 0.1 s of GPT-2 124M
FAILED = "the server failed to make this text"
WORTH_WAITING = 16  # ids that a prompt can take over from another one which is just being read


class Job:
    """A request, and how far it has got. ``cancelled`` may be set by any thread."""

    def __init__(self, request: Request, number: int, deliver: Deliver, tokenizer: Tokenizer):
        self.request, self.number, self._deliver = request, number, deliver
        self.ids = np.asarray(request.ids, np.int64)
        self.cancelled = False
        self.reused = 0
        self.stops = StopTexts(tokenizer, request.stop, request.sampling.min_new_tokens)
        self.prompt_logprobs: list[TokenLogprobs | None] = [None]

    def begin(self, row: int, no_text: Iterable[int]) -> None:
        """Take a row of the cache. ``no_text``: ids that never come."""
        request = self.request
        self.row = row
        self.text = TextInProgress(0, self.ids, request.stop_ids, np.random.default_rng(request.seed))
        self.sampling = request.sampling.without(no_text)

    def read(self) -> None:
        """Tell that the prompt has been through the model."""
        logprobs = () if self.request.prompt_logprobs is None else tuple(self.prompt_logprobs)
        self._deliver(PromptRead(self.number, logprobs, self.reused))

    def add(self, logits: np.ndarray) -> bool:
        """Choose the next token by its logits (V,), and tell it; whether the text ends with it."""
        request, text = self.request, self.text
        try:
            token = next_token(text, logits, self.sampling, request.logprobs)
        except FloatingPointError as error:
            self.end("error", str(error))
            return True
        stopped = token.id in request.stop_ids or self.stops(token)
        ended = "stop" if stopped else "length" if text.length - len(self.ids) >= request.max_new_tokens else None
        self._deliver(Made(self.number, token, self.stops.take(0, ended is not None), ended))
        return ended is not None

    def end(self, ended: str, problem: str = "") -> None:
        """Tell that no further token comes."""
        self._deliver(Made(self.number, None, self.stops.take(0, finished=True), ended, problem))


class Batch:
    """The texts that are being made, each in a row of one key/value cache. It belongs to one thread.

    reused      so many ids of prompts were taken over from what rows held
    made        so many tokens were made
    """

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer, rows: int):
        self.decoder = decoder
        self._no_text = range(tokenizer.vocab_size, decoder.config.vocab_size)  # the vocabulary may be padded
        self.cache = decoder.new_cache(rows)
        self.jobs: dict[int, Job] = {}  # by their rows, in the order in which they came
        self.made = self.reused = 0
        self._held = [np.empty(0, np.int64) for _ in range(rows)]  # the ids whose keys and values a free row holds
        self._free = list(range(rows))  # the longest unused first

    def join(self, waiting: Iterable[Job]) -> list[Job]:
        """Let jobs begin while rows are free -> those that did, or that ended because they couldn't.

        One that shares much with a prompt being read waits.
        """
        begun = []
        for job in list(waiting):
            if not self._free:
                break
            now, row = self._longest_shared(job)
            if job.request.prompt_logprobs is not None:
                now = 0  # all of its logits are wanted
            elif self._will_share(job) >= now + WORTH_WAITING:
                continue
            begun.append(job)
            try:
                self._begin(job, now, row)
            except Exception as error:  # a mistake in npgpt, or no memory: this text is lost, the server isn't
                traceback.print_exception(error)
                job.end("error", FAILED)
        return begun

    def step(self) -> None:
        """Let each text make one step: a piece of its prompt, or a token."""
        for job in [job for job in self.jobs.values() if job.cancelled]:
            self._leave(job)
            job.end("cancelled")
        decoding = [job for job in self.jobs.values() if job.text.length > len(job.ids)]
        reading = [job for job in self.jobs.values() if job.text.length == len(job.ids)]
        if decoding:
            rows = [job.row for job in decoding]
            logits = self.decoder.step(np.array([job.text.ids[-1] for job in decoding]), self.cache, rows)
            for job, row in zip(decoding, logits, strict=True):
                self._add(job, row)
        if reading:
            self._read(reading)

    def end_all(self, ended: str, problem: str = "") -> None:
        """End all texts; what rows hold is forgotten."""
        for job in list(self.jobs.values()):
            self._leave(job)
            job.end(ended, problem)
        self.cache.lengths[:] = 0

    def _longest_shared(self, job) -> tuple[int, int]:
        """-> (number of first ids that a row holds too, but never all of the job's; that row)"""
        return max((shared_length(self._ids_in(row), job.ids), row) for row in range(len(self._held)))

    def _will_share(self, job) -> int:
        """How many first ids a prompt that is still being read has in common with the job's."""
        reading = (other for other in self.jobs.values() if self._left(other) > 1)
        return max((shared_length(other.ids, job.ids) for other in reading), default=0)

    def _begin(self, job, n, source):
        """Give the job a row that holds its first n ids, which ``source`` holds too."""
        row = self._free[0]
        if source in self._free and 2 * n >= self.cache.lengths[source]:  # at least half of it is used again
            row = source
        job.begin(row, self._no_text)
        self.cache.copy_from(self.cache, source, row, n)
        self._free.remove(row)
        self.jobs[row] = job
        job.reused = n
        self.reused += n

    def _leave(self, job):
        row = job.row
        self._held[row] = job.text.ids[: self.cache.lengths[row]].copy()
        del self.jobs[row]
        self._free.append(row)

    def _ids_in(self, row) -> np.ndarray:
        ids = self.jobs[row].text.ids if row in self.jobs else self._held[row]
        return ids[: self.cache.lengths[row]]

    def _left(self, job) -> int:
        """How many ids of a text have not been through the model."""
        return job.text.length - int(self.cache.lengths[job.row])

    def _read(self, reading):
        """Send up to PIECE ids of prompts through the model."""
        together, budget = [], PIECE
        for job in reading:
            n = min(self._left(job), PIECE)
            if n > budget:
                break  # a piece is never cut for others' sake: a text must not depend on them
            budget -= n
            if job.request.prompt_logprobs is None:
                together.append((job, self._piece(job)))
            else:
                self._read_with_logprobs(job)
        if together:
            jobs, pieces = zip(*together, strict=True)
            logits = self.decoder.prefill(pieces, self.cache, [job.row for job in jobs])
            for job, row in zip(jobs, logits, strict=True):
                self._go_on(job, row)

    def _read_with_logprobs(self, job):
        piece, first = self._piece(job), int(self.cache.lengths[job.row])
        logits = self.decoder.extend(piece, self.cache, job.row)
        for row, id in zip(logits, job.ids[first + 1 : first + len(piece) + 1], strict=False):
            job.prompt_logprobs.append(token_logprobs(row, int(id), job.request.prompt_logprobs))
        self._go_on(job, logits[-1])

    def _piece(self, job) -> np.ndarray:
        first = int(self.cache.lengths[job.row])
        return job.ids[first : first + PIECE]

    def _go_on(self, job, logits):
        """After a piece of the prompt: with the last one, the first token is chosen."""
        if self._left(job):
            return
        job.read()
        if job.request.max_new_tokens:
            self._add(job, logits)
        else:
            self._leave(job)
            job.end("length")

    def _add(self, job, logits):
        before = job.text.length
        ended = job.add(logits)
        self.made += job.text.length - before  # none if it failed
        if ended:
            self._leave(job)
