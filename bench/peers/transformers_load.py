"""python -m bench.peers.transformers_load FOLDER : transformers' side of bench.load."""

import json
import sys
from time import perf_counter

import torch
from transformers import GPT2LMHeadModel

from bench.resident import most_resident, resident

TOKENS = [[464, 11241, 318, 257, 1332]]  # as in bench.npgpt_load


def main():
    before, began = resident(), perf_counter()
    model = GPT2LMHeadModel.from_pretrained(sys.argv[1])
    loaded = perf_counter()
    with torch.inference_mode():
        logits = model(torch.tensor(TOKENS)).logits
    seconds = perf_counter() - began
    memory = most_resident() - before
    result = {"seconds": seconds, "loading": loaded - began, "memory": memory, "logits": logits[0, -1, :1000].tolist()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
