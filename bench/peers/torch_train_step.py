"""python -m bench.peers.torch_train_step JOB : torch's side of bench.train_step, in the job's mode."""

import json
import sys

import torch
from safetensors.torch import load_file

from bench.peers.torch_gpt import adamw, from_npgpt, loss_function
from bench.step_timing import time_steps
from npgpt.config import GPTConfig


def main():
    job = json.loads(sys.argv[1])
    model = from_npgpt(GPTConfig.from_dict(job["model"]), load_file(job["weights"]))
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith(job["train_only"]))
    optimizer = adamw(model, **job["optimizer"])
    loss_of = loss_function(model, **job["mode"])

    def step(ids, targets, done):
        optimizer.zero_grad()
        loss = loss_of(torch.from_numpy(ids), torch.from_numpy(targets))
        done("forward")
        loss.backward()
        done("backward")
        torch.nn.utils.clip_grad_norm_(model.parameters(), job["grad_clip"])
        done("clip")
        optimizer.step()
        done("optimizer")
        return loss.item()

    def compiled():
        """From here on, compiling again would be timed: let it be an error."""
        torch.compiler.set_stance("fail_on_recompile")

    print(json.dumps({"threads": torch.get_num_threads(), **time_steps(step, job, compiled)}))


if __name__ == "__main__":
    main()
