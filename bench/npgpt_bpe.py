"""python -m bench.npgpt_bpe TEXT SIZE : npgpt's side of bench.bpe."""

from bench.bpe_timing import report
from npgpt.text.byte_pairs import BPETokenizer

if __name__ == "__main__":
    report(lambda chunks, size: list(BPETokenizer.from_texts([chunks], size).merges))
