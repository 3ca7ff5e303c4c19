"""python -m bench.initial_weights MODEL FILE : write npgpt's initial weights (seed 0), for every side to begin with."""

import json
import sys

from npgpt.checkpoints.runs import save_weights
from npgpt.gpt import GPT, GPTConfig

if __name__ == "__main__":
    config = GPTConfig.from_dict(json.loads(sys.argv[1]))
    save_weights(sys.argv[2], GPT(config, seed=0).state_dict(), config)
