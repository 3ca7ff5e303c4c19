"""python -m bench.peers.torch_decode JOB : the side of bench.decode that is torch_gpt.py, with a preallocated cache."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from bench.decode_timing import run
from bench.peers.torch_gpt import KeyValueCache, from_npgpt
from npgpt.config import GPTConfig


class Side:
    def __init__(self, job):
        config = GPTConfig.from_dict(job["model"])
        weights = load_file(Path(job["path"]) / "model.safetensors")
        weights = {name.removeprefix("transformer."): w for name, w in weights.items()}
        self.dtype = getattr(torch, job["weights"])
        self.model = from_npgpt(config, weights).to(self.dtype)
        self.threads = torch.get_num_threads()
        self.caches = [KeyValueCache(config, job["batch_size"]) for _ in self.model.h]
        for cache in self.caches:
            cache.keys, cache.values = cache.keys.to(self.dtype), cache.values.to(self.dtype)

    def prefill(self, prompts):
        for cache in self.caches:
            cache.length = 0
        return self._logits(prompts)

    def step(self, ids):
        return self._logits(ids[:, None])

    @torch.inference_mode()
    def _logits(self, ids):
        """ids (B, T) -> logits (B, V) after the last"""
        last = self.model.features(torch.from_numpy(ids), self.caches)[:, -1]
        return F.linear(last, self.model.wte.weight).float().numpy()


if __name__ == "__main__":
    run(Side)
