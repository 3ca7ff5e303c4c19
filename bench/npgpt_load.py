"""python -m bench.npgpt_load FOLDER : npgpt's side of bench.load. With --write PRESET, it makes the folder."""

import sys

from bench.load_timing import TOKENS, report
from npgpt import GPT, GPTConfig, load, no_grad
from npgpt.checkpoints import save


@no_grad()
def logits_of(model):
    return model(TOKENS).data


if __name__ == "__main__":
    if sys.argv[1] == "--write":
        save(GPT(GPTConfig.preset(sys.argv[2]), seed=0), sys.argv[3])
    else:
        report(lambda: load(sys.argv[1]), logits_of)
