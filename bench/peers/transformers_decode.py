"""python -m bench.peers.transformers_decode JOB : transformers' side of bench.decode.

The loop is our own: ``generate`` does the same and a few things more for each token, which cost it time.
"""

import torch
from transformers import DynamicCache, GPT2LMHeadModel
from transformers.utils.logging import disable_progress_bar

from bench.decode_timing import run


class Side:
    def __init__(self, job):
        self.model = GPT2LMHeadModel.from_pretrained(job["path"], dtype=getattr(torch, job["weights"])).eval()
        self.threads = torch.get_num_threads()

    def prefill(self, prompts):
        self.cache = DynamicCache(config=self.model.config)
        return self._logits(prompts)

    def step(self, ids):
        return self._logits(ids[:, None])

    @torch.inference_mode()
    def _logits(self, ids):
        """ids (B, T) -> logits (B, V) after the last"""
        # by position: the cache's name depends on the version
        logits = self.model(torch.from_numpy(ids), self.cache, use_cache=True, logits_to_keep=1).logits
        return logits[:, -1].float().numpy()


if __name__ == "__main__":
    disable_progress_bar()
    run(Side)
