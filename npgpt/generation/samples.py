"""What ``python -m npgpt.sample`` makes and prints: drawn texts, or the likeliest ones."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from npgpt.generation.beam import beam_search
from npgpt.generation.constraints import PatternConstraint
from npgpt.generation.decoder import Decoder
from npgpt.generation.drafts import PromptLookup
from npgpt.generation.output import Page, Stopwatch
from npgpt.generation.prefix import Prefix
from npgpt.generation.sampling import Sampling
from npgpt.generation.speculation import Speculation, speculate
from npgpt.generation.stop import StopTexts
from npgpt.generation.stream import stream
from npgpt.generation.token import Token
from npgpt.generation.token_lines import HEADER, token_line
from npgpt.signals import StopRequest
from npgpt.text.tokenizers import Tokenizer

AT_ONCE = 16  # a step costs little more for so many texts than for one, and the cache takes memory for each
OTHERS = 5  # tokens that are looked for beside the one that was drawn


@dataclass
class Samples:
    """Texts that continue one prompt.

    prompt, ids     as text, and as ids with which the model begins
    seed            of the first sample; sample i has ``seed + i``, and is the same alone. None: random
    draft           proposes tokens, at most ``draft_tokens`` at a time; samples are then made one after the other
    """

    decoder: Decoder
    tokenizer: Tokenizer
    prompt: str
    ids: list[int] | np.ndarray
    sampling: Sampling
    count: int
    max_new_tokens: int
    stop: tuple[str, ...]
    seed: int | None = None
    max_seconds: float | None = None
    constraint: PatternConstraint | None = None
    draft: Decoder | PromptLookup | None = None
    draft_tokens: int = 4
    show_probs: bool = False

    def __post_init__(self):
        self.texts = StopTexts(self.tokenizer, self.stop, self.sampling.min_new_tokens)
        self.stop_ids = self.tokenizer.stop_ids
        self.speculations: list[Speculation] = []

    def print(self) -> None:
        """Print each text as it is made, one after the other; at last on stderr how long that took."""
        page = Page(f"{self.prompt}\n{HEADER}\n" if self.show_probs else self.prompt)
        tokens = Stopwatch(self._drawn() if self.draft is None else self._speculated(self.draft))
        with StopRequest() as stop:
            try:
                for token in tokens:
                    stop.check()
                    text, ended = self.texts.take(token.row, token.ended is not None), token.ended is not None
                    if self.show_probs:
                        text = token_line(token, self.tokenizer) + "\n" * (not ended)
                    page.add(token.row, text, ended)
            except KeyboardInterrupt:
                page.break_off()
                raise
        print(tokens.summary(min(len(self.ids), self.decoder.config.block_size)), file=sys.stderr)
        for speculation in self.speculations:
            print(speculation.summary(), file=sys.stderr)

    def _drawn(self) -> Iterator[Token]:
        """The tokens of all samples, whose numbers are their rows. The prompt goes through the model once for all."""
        again = self.count > AT_ONCE and len(self.ids) <= self.decoder.config.block_size
        begin = perf_counter()
        prefix = Prefix.compute(self.decoder, self.ids) if again else None
        for first in range(0, self.count, AT_ONCE):
            tokens = stream(
                self.decoder, [self.ids], self.max_new_tokens, self.sampling, self._seed(first),
                num_samples=min(AT_ONCE, self.count - first), prefix=prefix, **self._options(first, begin),
            )  # fmt: skip
            yield from (replace(token, row=first + token.row) for token in tokens)

    def _speculated(self, draft) -> Iterator[Token]:
        begin = perf_counter()
        for row in range(self.count):
            speculation = speculate(
                self.decoder, draft, self.ids, self.max_new_tokens, self.sampling, self._seed(row),
                drafted=self.draft_tokens, **self._options(row, begin),
            )  # fmt: skip
            self.speculations.append(speculation)
            yield from (replace(token, row=row) for token in speculation)

    def _options(self, first, begin):
        """Of ``stream`` and ``speculate``, for the samples from ``first`` on; all of them began at ``begin``."""
        left = None if self.max_seconds is None else max(self.max_seconds - (perf_counter() - begin), 1e-9)
        return {
            "stop_ids": self.stop_ids,
            "stop_if": lambda token: self.texts(replace(token, row=first + token.row)),
            "max_seconds": left,
            "logprobs": OTHERS if self.show_probs else None,
            "constraint": self.constraint,
        }

    def _seed(self, row):
        return None if self.seed is None else self.seed + row

    def print_likeliest(self, beams: int, length_penalty: float, early_stopping: bool | str) -> None:
        """Look for the likeliest texts, and print them, the best first."""
        begin = perf_counter()
        found = beam_search(
            self.decoder, self.ids, self.max_new_tokens, beams, length_penalty, early_stopping, self.count,
            self.stop_ids, self.sampling,
        )  # fmt: skip
        seconds = perf_counter() - begin
        page = Page(self.prompt)
        for row, beam in enumerate(found):
            for id in beam.ids[len(self.ids) :].tolist():
                if self.texts(Token(row, id)):
                    break
            page.add(row, self.texts.take(row, finished=True), ended=True)
        longest = max(len(beam.ids) - len(self.ids) for beam in found)
        print(f"{beams} beams of up to {longest} new tokens in {seconds:.2f} s", file=sys.stderr)
