"""What bench.serving asks of the servers: groups of requests, those of a group at the same moment."""

from itertools import count
from pathlib import Path

from npgpt.text.tokenizers import GPT2Tokenizer

STORY = Path(__file__).resolve().parents[1] / "data" / "the-verdict.txt"
STRIDE = 37  # tokens between the beginnings of two prompts: no two begin alike
DRAWN = {"temperature": 0.8, "top_k": 50, "top_p": 1.0}
GREEDY = {"temperature": 0.0}
CHECKED = 32  # tokens of each text that is compared


def requests(
    streams: int, prompt: int, tokens: int, long_prompt: int, times: int, extra: dict
) -> dict[str, list[list[dict]]]:
    """{work: groups of bodies of requests}

    warm-up     what the rest needs, once, not counted
    one         ``times`` texts of so many ``tokens``, one after the other
    many        the same, so many ``streams`` at a time, each with a prompt of its own
    first       one token after a prompt of ``long_prompt`` tokens, which begins as no other did before
    shared      one token after the same prompt but for its last eighth
    check       as many texts as ``many`` has at a time, greedy

    extra       goes into each body
    """
    story, places = GPT2Tokenizer().encode(STORY.read_text(encoding="utf-8")).tolist(), count()

    def body(ids, tokens, sampling=DRAWN):
        usage = {"stream": True, "stream_options": {"include_usage": True}}
        # A text never ends early: the token that would end it can't come.
        never = {"logit_bias": {str(GPT2Tokenizer().end_of_text): -100}}
        return {"model": "npgpt", "prompt": ids, "max_tokens": tokens, "seed": 0, **sampling, **usage, **never, **extra}

    def fresh(length):
        first = STRIDE * next(places) % (len(story) - length)
        return story[first : first + length]

    def group(size, sampling=DRAWN, tokens=tokens):
        return [body(fresh(prompt), tokens, sampling) for _ in range(size)]

    same = fresh(long_prompt)
    rest = long_prompt // 8
    shared = [same[: long_prompt - rest] + fresh(rest) for _ in range(times)]
    return {
        "check": [group(streams, GREEDY, CHECKED)],
        "warm-up": [group(1), group(streams, tokens=8), [body(fresh(long_prompt), 1)]],
        "one": [group(1) for _ in range(times)],
        "many": [group(streams) for _ in range(times)],
        "first": [[body(fresh(long_prompt), 1)] for _ in range(times)] + [[body(same, 1)]],
        "shared": [[body(ids, 1)] for ids in shared],
    }
