"""python -m bench.peers.llamacpp_decode JOB : llama.cpp's side of bench.decode, through llama-cpp-python's bindings.

They are used as llama.cpp's own programs use the library. The class Llama of these bindings, for Python's users, does
more for each token. Flash attention, and keys and values in float16, are llama.cpp's defaults.
"""

import ctypes
import os
import sys

import llama_cpp
import numpy as np

from bench.decode_timing import run
from bench.processes import ProcessFailed

ERROR = 4  # enum ggml_log_level


@llama_cpp.llama_log_callback
def _print_errors(level, text, data):
    if level == ERROR:
        sys.stderr.write(text.decode(errors="replace"))


class Side:
    def __init__(self, job):
        parameters = llama_cpp.llama_model_default_params()
        parameters.use_extra_bufts = job["repack"]
        self.model = llama_cpp.llama_model_load_from_file(job["path"].encode(), parameters)
        B, V = job["batch_size"], job["model"]["vocab_size"]
        settings = llama_cpp.llama_context_default_params()
        settings.n_seq_max, settings.n_ctx = B, B * job["model"]["block_size"]
        settings.n_batch = B * job["prompt"]
        settings.n_threads = settings.n_threads_batch = int(os.environ["OMP_NUM_THREADS"])
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        if not self.context:
            raise ProcessFailed(f"llama.cpp can't run {job['path']}")
        self.threads = llama_cpp.llama_n_threads(self.context)
        self.batch = llama_cpp.llama_batch_init(B * job["prompt"], 0, 1)
        self.vocab_size = V

    def prefill(self, prompts):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)
        self.length = 0
        return self._logits(prompts)

    def step(self, ids):
        return self._logits(ids[:, None])

    def _logits(self, ids):
        """ids (B, T) -> logits (B, V) after the last"""
        (B, T), batch, last = ids.shape, self.batch, []
        batch.n_tokens = B * T
        for place, ((text, t), id) in enumerate(np.ndenumerate(ids)):
            batch.token[place], batch.pos[place] = id, self.length + t
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, text
            batch.logits[place] = t == T - 1
            if t == T - 1:
                last.append(place)
        if code := llama_cpp.llama_decode(self.context, batch):
            raise ProcessFailed(f"llama_decode returned {code}")
        self.length += T
        rows = (llama_cpp.llama_get_logits_ith(self.context, place) for place in last)
        return np.stack([np.ctypeslib.as_array(row, (self.vocab_size,)) for row in rows])


if __name__ == "__main__":
    llama_cpp.llama_log_set(_print_errors, ctypes.c_void_p(0))
    run(Side)
