"""python -m bench.peers.transformers_load FOLDER : transformers' side of bench.load."""

import sys

import torch
from transformers import GPT2LMHeadModel

from bench.load_timing import TOKENS, report


@torch.inference_mode()
def logits_of(model):
    return model(torch.tensor(TOKENS)).logits.numpy()


if __name__ == "__main__":
    report(lambda: GPT2LMHeadModel.from_pretrained(sys.argv[1]), logits_of)
