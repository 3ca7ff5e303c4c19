"""python -m bench.npgpt_train_step JOB : npgpt's side of bench.train_step."""

import json
import sys

import numba

import npgpt
from bench.step_timing import time_steps
from npgpt import AdamW, load
from npgpt.optim import clip_scale, grad_norm


def main():
    job = json.loads(sys.argv[1])
    if job["matmul_precision"] != "highest":
        npgpt.set_matmul_precision(job["matmul_precision"])
    model = load(job["weights"]).train()
    for name, p in model.named_parameters():
        p.requires_grad = name.startswith(job["train_only"])
    optimizer = AdamW(model.named_parameters(), **job["optimizer"])
    parameters = model.trainable_parameters()

    def step(ids, targets, done):
        optimizer.zero_grad()
        loss = model.loss(ids, targets)
        done("forward")
        loss.backward()
        done("backward")
        scale = clip_scale(grad_norm(parameters), job["grad_clip"])
        done("clip")
        optimizer.step(scale)
        done("optimizer")
        return loss.item()

    print(json.dumps({"threads": numba.get_num_threads(), **time_steps(step, job)}))


if __name__ == "__main__":
    main()
