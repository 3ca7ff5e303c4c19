"""python -m bench.peers.torch_train_step JOB : torch's side of bench.train_step, eager float32."""

import json
import sys

import torch
from safetensors.torch import load_file

from bench.peers.torch_gpt import adamw, from_npgpt
from bench.step_timing import time_steps
from npgpt.config import GPTConfig


def main():
    job = json.loads(sys.argv[1])
    model = from_npgpt(GPTConfig.from_dict(job["model"]), load_file(job["weights"]))
    optimizer = adamw(model, **job["optimizer"])

    def step(ids, targets):
        optimizer.zero_grad()
        loss = model.loss(torch.from_numpy(ids), torch.from_numpy(targets))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), job["grad_clip"])
        optimizer.step()
        return loss.item()

    print(json.dumps({"threads": torch.get_num_threads(), **time_steps(step, job)}))


if __name__ == "__main__":
    main()
