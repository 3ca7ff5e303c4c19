"""python -m bench.npgpt_load FOLDER : npgpt's side of bench.load. With --write PRESET, it makes the folder."""

import json
import sys
from time import perf_counter

from bench.resident import most_resident, resident
from npgpt import GPT, GPTConfig, load, no_grad
from npgpt.checkpoints import save

TOKENS = [[464, 11241, 318, 257, 1332]]


def main():
    if sys.argv[1] == "--write":
        save(GPT(GPTConfig.preset(sys.argv[2]), seed=0), sys.argv[3])
        return
    before, began = resident(), perf_counter()
    model = load(sys.argv[1])
    loaded = perf_counter()
    with no_grad():
        logits = model(TOKENS).data
    seconds = perf_counter() - began
    memory = most_resident() - before
    result = {"seconds": seconds, "loading": loaded - began, "memory": memory, "logits": logits[0, -1, :1000].tolist()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
