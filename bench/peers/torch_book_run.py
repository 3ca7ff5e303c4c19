"""python -m bench.peers.torch_book_run PLAN_FOLDER OUT MODE : torch's side of bench.book_run, a run as one process.

Initial weights, windows and their order, learning rates, evaluations and samples are those of npgpt.train, by
bench.book_plan and npgpt's own modules for text and batches, which need neither Numba nor time. The checkpoints that
npgpt.train writes on its way once a minute are left out. MODE is for training and evaluations. Samples are always eager
and in float32, which for one token at a time is faster than autocast.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from bench.peers.torch_gpt import adamw, from_npgpt, loss_function
from npgpt.config import TEMPERATURE, TOP_K, GPTConfig
from npgpt.text.batches import BatchSampler, TokenDataset, evaluation_batches
from npgpt.text.corpus import read_corpus, train_val_split
from npgpt.text.tokenizers import GPT2Tokenizer


def main():
    plan_folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    plan = json.loads((plan_folder / "plan.json").read_text())
    s = {**plan["settings"], **plan["plan"]}
    tokenizer = GPT2Tokenizer()
    train, validation = train_val_split(read_corpus(s["texts"], tokenizer), s["val_fraction"], s["split_by"])
    batches = BatchSampler(TokenDataset(train, s["context"], s["stride"]), s["batch_size"], s["seed"])
    splits = {
        f"{name}_loss": evaluation_batches(TokenDataset(tokens, s["context"]), s["batch_size"], s["eval_batches"])
        for name, tokens in (("train", train), ("val", validation))
    }
    model = from_npgpt(GPTConfig.from_dict(plan["model"]), load_file(plan_folder / "weights.safetensors"))
    optimizer = adamw(model, lr=s["lr"], betas=(s["beta1"], s["beta2"]), eps=1e-8, weight_decay=s["weight_decay"])
    loss_of = loss_function(model, **json.loads(sys.argv[3]))
    prompt = torch.tensor([plan["prompt"]])
    torch.manual_seed(s["seed"])

    steps = len(plan["learning_rates"])
    evaluations, samples, best = [], 0, float("inf")
    for step in range(steps + 1):
        if step % s["eval_every"] == 0 or step == steps:
            losses = {name: mean_loss(loss_of, parts) for name, parts in splits.items()}
            evaluations.append({"step": step, **losses})
            log(f"{step}/{steps}  {losses}")
            if step and losses["val_loss"] < best:
                best = losses["val_loss"]
                torch.save(model.state_dict(), out / "best.pt")
            if s["sample_every"] and (step % s["sample_every"] == 0 or step == steps):
                ids = model.generate(prompt, s["sample_tokens"], temperature=TEMPERATURE, top_k=TOP_K)
                log(tokenizer.decode(ids[0].tolist()))
                samples += 1
        if step < steps:
            for group in optimizer.param_groups:
                group["lr"] = plan["learning_rates"][step]
            loss = train_one_step(model, loss_of, optimizer, batches.batch(step), s["grad_clip"])
            if (step + 1) % s["log_every"] == 0:
                log(f"{step + 1}/{steps}  loss {loss:.4f}")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, out / "last.pt")
    print(json.dumps({"threads": torch.get_num_threads(), "evaluations": evaluations, "samples": samples}))


def train_one_step(model, loss_of, optimizer, batch, grad_clip):
    optimizer.zero_grad()
    loss = loss_of(*map(torch.from_numpy, batch))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()
    return loss.item()


@torch.inference_mode()
def mean_loss(loss_of, batches):
    """Over all targets."""
    total = sum(loss_of(*map(torch.from_numpy, batch)).item() * batch[1].size for batch in batches)
    return total / sum(targets.size for _, targets in batches)


def log(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
