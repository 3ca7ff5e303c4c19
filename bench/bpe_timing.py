"""The work of both sides of bench.bpe in their processes: train on a text, report the time and the merges."""

import json
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from time import perf_counter

from npgpt.text import gpt2_bpe

CHUNK = 2**15  # characters: enough chunks for all threads


def report(train: Callable[[list[str], int], list[str]]) -> None:
    """Print, as JSON, the seconds of ``train(chunks, vocab_size)`` and a digest of the merges that it returns."""
    text = Path(sys.argv[1]).read_bytes().decode()
    chunks = list(gpt2_bpe.safe_chunks(text[i : i + CHUNK] for i in range(0, len(text), CHUNK)))
    began = perf_counter()
    merges = train(chunks, int(sys.argv[2]))
    seconds = perf_counter() - began
    print(json.dumps({"seconds": seconds, "merges": sha256("\n".join(merges).encode()).hexdigest()}))
