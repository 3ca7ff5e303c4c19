"""Runs of models that were never trained, for python -m npgpt.sample, and what it then prints."""

import os
import re
from dataclasses import replace

from helpers.commands import command
from helpers.models import with_random_parameters
from npgpt import GPT, GPTConfig
from npgpt.checkpoints import runs
from npgpt.checkpoints.shared.atomic import write_json
from npgpt.generation import Token
from npgpt.text.tokenizers import CharTokenizer
from npgpt.training.folder import write_run_config
from npgpt.training.settings import TrainSettings

CONFIG = GPTConfig(vocab_size=257, block_size=16, n_layer=1, n_head=2, n_embd=8)
LETTERS = "abcdefghijklmnopqrstuvwxyz .\n"


def make_run(folder, seed=0, tokenizer=None, prompt=""):
    """A run with an untrained model whose text depends on the seed -> model, tokenizer: of letters by default."""
    tokenizer = tokenizer or CharTokenizer("".join(sorted(LETTERS)))
    config = GPTConfig(**{**CONFIG.to_dict(), "vocab_size": tokenizer.vocab_size})
    folder.mkdir(parents=True)
    write_run_config(folder, config, {}, TrainSettings().resolve(1, 16, prompt))
    write_json(folder / "tokenizer.json", tokenizer.to_dict())
    model = with_random_parameters(GPT(config), seed)
    model.wte.weight.data[tokenizer.end_of_text] = 0  # a logit of 0, well below the largest
    runs.save_weights(folder / "last.safetensors", model.state_dict(), config)
    return model, tokenizer


def saved(run, hour):
    os.utime(run / "last.safetensors", (hour * 3600, hour * 3600))


def make_runs(tmp_path, tokenizer=None):
    """A working folder with runs/a, the newer one, and runs/b."""
    for name, seed, hour in (("a", 1, 11), ("b", 2, 10)):
        make_run(tmp_path / "runs" / name, seed, tokenizer)
        saved(tmp_path / "runs" / name, hour)
    return tmp_path


SPEED = re.compile(
    r"[\d,]+ new; prefill: \d+ tokens? in [\d.]+ s \([\d.]+/s\)(; decoding: \d+ tokens? in .* s \(.*/s\))?\n"
)


def sample(work, *arguments, **options) -> str:
    ended = command("sample", *arguments, cwd=work, **options)
    assert ended.code == 0, ended
    assert SPEED.fullmatch(ended.err), ended
    return ended.out


GREEDY = ("--greedy", "--max-new-tokens", 12, "--prompt", "the ")
DRAWN = ("--max-new-tokens", 12, "--prompt", "the ", "--seed", 1)


def scripted(*rows):
    """A ``stream`` that makes these ids in the rows 0, ..., one of each in turn, whatever it is asked."""

    def stream(*arguments, stop_if, stop_ids, **options):
        left = dict(enumerate(map(list, rows)))
        while left:
            for row in list(left):
                token = Token(row, left[row].pop(0))
                stopped = stop_if(token) or token.id in stop_ids
                if stopped or not left[row]:
                    del left[row]
                    token = replace(token, ended="stop" if stopped else "length")
                yield token

    return stream
