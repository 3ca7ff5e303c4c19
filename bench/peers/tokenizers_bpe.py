"""python -m bench.peers.tokenizers_bpe TEXT SIZE : the tokenizers library's side of bench.bpe."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from bench.bpe_timing import report


def train(chunks, size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(chunks, trainer)
    return [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


if __name__ == "__main__":
    report(train)
