"""python -m bench.npgpt_stream JOB : texts as npgpt.sample makes them, for bench.serving. No server is there.

With --write MODEL SOURCE FOLDER, it writes a model in the formats that the servers read.
"""

import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from time import perf_counter

import numba

from npgpt import GPT, GPTConfig, load
from npgpt.checkpoints import save
from npgpt.generation import Decoder, Sampling, generate
from npgpt.generation.samples import Samples
from npgpt.text.tokenizers import GPT2Tokenizer


def run(job: dict) -> dict:
    """Make the texts of the works "one" and "check", and the first tokens of "first".

    one         seconds of each text, its prompt included
    first       seconds of each prompt until its logits are there
    check       the texts, made all at once
    """
    decoder, tokenizer, works = Decoder(load(job["path"]), job["weights"]), GPT2Tokenizer(), job["works"]
    seconds = []
    for body in (works["warm-up"][0][0], *(body for (body,) in works["one"])):
        began = perf_counter()
        _print(decoder, tokenizer, body)
        seconds.append(perf_counter() - began)
    first, cache = [], decoder.new_cache()
    for (body,) in works["warm-up"][-1:] + works["first"]:
        cache.lengths[:] = 0
        began = perf_counter()
        decoder.prefill([body["prompt"]], cache, [0])
        first.append(perf_counter() - began)
    (bodies,) = works["check"]
    prompts = [body["prompt"] for body in bodies]
    made = generate(decoder, prompts, bodies[0]["max_tokens"], sampling=sampling(bodies[0]))
    texts = [tokenizer.decode(ids[len(prompt) :]) for ids, prompt in zip(made, prompts, strict=True)]
    return {"threads": numba.get_num_threads(), "one": seconds[1:], "first": first[1:], "check": texts}


def sampling(body: dict) -> Sampling:
    """What a request says of the choice of tokens."""
    biases = {int(id): bias for id, bias in body["logit_bias"].items()}
    values = {name: body[name] for name in ("temperature", "top_k", "top_p") if name in body}
    return Sampling(**values, logit_bias=biases)


def _print(decoder, tokenizer, body):
    ids = body["prompt"]
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        Samples(
            decoder, tokenizer, tokenizer.decode(ids), ids, sampling(body), 1, body["max_tokens"], (), body["seed"]
        ).print()


def write(config: str, source: str, folder: str, dtype: str) -> None:
    """Write the model ``source``, or if it is empty a random one of GPTConfig ``config``, for both servers.

    A new model's likeliest next token is mostly its last one again, as the same matrix reads and writes tokens and the
    layers add little. Larger matrices and positions make texts that vary and depend on their prompts.
    """
    model = load(source) if source else GPT(GPTConfig.from_dict(json.loads(config)), seed=0)
    if not source:
        model.wpe.weight.data *= 3
        for name, matrix in model.named_parameters():
            if name.startswith("h.") and matrix.data.ndim == 2:
                matrix.data *= 6 if "c_proj" in name else 2
    save(model, Path(folder) / "huggingface")
    save(model, Path(folder) / "model.gguf", dtype=dtype, to="gguf")


if __name__ == "__main__":
    if sys.argv[1] == "--write":
        write(*sys.argv[2:])
    else:
        print(json.dumps(run(json.loads(sys.argv[1]))))
