"""python -m bench.npgpt_decode JOB : npgpt's side of bench.decode.

With --write MODEL FOLDER, it writes a random model in the formats that the sides read.
"""

import json
import sys
from pathlib import Path

import numba

import npgpt
from bench.decode_timing import run
from npgpt import GPT, GPTConfig, load
from npgpt.checkpoints import save
from npgpt.generation.decoder import Decoder


class Side:
    def __init__(self, job):
        if job["matmul_precision"] != "highest":
            npgpt.set_matmul_precision(job["matmul_precision"])
        self.decoder = Decoder(load(job["path"]), weights=job["weights"])
        self.threads = numba.get_num_threads()
        self.rows = list(range(job["batch_size"]))
        self.cache = self.decoder.new_cache(job["batch_size"])

    def prefill(self, prompts):
        self.cache.lengths[:] = 0
        return self.decoder.prefill(list(prompts), self.cache, self.rows)

    def step(self, ids):
        return self.decoder.step(ids, self.cache, self.rows)


def write(model: str, folder: str) -> None:
    """Write GPTConfig ``model``, as JSON, with the weights of seed 0: a Hugging Face folder, and GGUF files."""
    model, folder = GPT(GPTConfig.from_dict(json.loads(model)), seed=0), Path(folder)
    save(model, folder / "huggingface")
    for dtype in ("F32", "F16", "Q8_0", "Q4_0"):
        save(model, folder / f"{dtype}.gguf", dtype=dtype, to="gguf")


if __name__ == "__main__":
    if sys.argv[1] == "--write":
        write(*sys.argv[2:])
    else:
        run(Side)
