"""Trainer: the training loop, what it writes down, and how a run that was stopped goes on.

A run is a function of its settings and its text. What a step needs besides the weights is a function of the step's
number (the batches, the learning rate) or is stored with them (the optimizer's moments, the dropout generator's state);
so stopping and going on gives the same weights, bit for bit, as never having stopped.
"""

import math
import os
import shlex
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from npgpt import kernels
from npgpt.checkpoints import make_model, open_checkpoint, runs
from npgpt.checkpoints.shared.atomic import write_json
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError, ConfigError, DataError
from npgpt.generation import Sampling, stream
from npgpt.gpt import GPT
from npgpt.kernels import precision
from npgpt.optim import AdamW, clip_grad_norm, warmup_cosine
from npgpt.precompile import compile_for_training
from npgpt.tensor import no_grad
from npgpt.text.batches import BatchSampler, TokenDataset, evaluation_batches
from npgpt.text.corpus import iter_text, read_corpus, train_val_split
from npgpt.text.tokenizers import load_tokenizer, make_tokenizer
from npgpt.training.log import Metrics, StopRequest, log, log_text, minutes
from npgpt.training.settings import TrainSettings

SAVE_AFTER = 60  # seconds since the last checkpoint before an evaluation writes another


class Trainer:
    """One run: a model, its optimizer, its data and its folder. Made by ``start`` or ``resume``; ``run`` trains."""

    def __init__(self, settings: TrainSettings, model: GPT, tokenizer, corpus, folder: Path | None):
        self.settings, self.model, self.tokenizer, self.folder = settings, model, tokenizer, folder
        model.recompute = settings.recompute
        context = settings.context
        train, validation = train_val_split(corpus, settings.val_fraction, settings.split_by)
        windows = TokenDataset(train, context, settings.stride, "training part")
        self.batches = BatchSampler(windows, settings.batch_size, settings.seed)
        self.splits = {"train": train} if validation is None else {"train": train, "val": validation}
        self.splits = {
            name: evaluation_batches(
                TokenDataset(tokens, context, part="validation part" if name == "val" else "training part"),
                settings.batch_size,
                settings.eval_batches,
            )
            for name, tokens in self.splits.items()
        }
        self.max_steps = settings.max_steps
        if self.max_steps is None:
            self.max_steps = 200
            if settings.epochs is not None:
                batches = math.ceil(round(settings.epochs * len(windows), 6) / settings.batch_size)
                self.max_steps = max(1, math.ceil(batches / settings.grad_accum))
        self.warmup = self.max_steps // 20 if settings.warmup is None else settings.warmup
        self.min_lr = settings.lr / 10 if settings.min_lr is None else settings.min_lr
        self.eval_every = settings.eval_every or max(1, self.max_steps // 10)
        self.sample_every = self.eval_every if settings.sample_every is None else settings.sample_every
        if settings.sample_prompt is None:
            self.settings = settings = replace(settings, sample_prompt=_beginning(train, tokenizer))
        self.prompt = tokenizer.encode_prompt(settings.sample_prompt)
        self.optimizer = AdamW(
            model.named_parameters(), settings.lr, (settings.beta1, settings.beta2), weight_decay=settings.weight_decay
        )
        self.fingerprint = corpus.fingerprint
        self.step = 0  # steps done
        self.looked_at = -1  # the step after which the last evaluation or sample was
        self.best = math.inf  # the lowest validation loss
        self.best_step = None
        self.evaluations_without_progress = 0
        self.seconds = 0.0  # spent training before this process
        self.description = self._describe(corpus, windows, train, validation)

    # Beginning

    @classmethod
    def start(cls, settings: TrainSettings) -> "Trainer":
        """A new run: read the text, make or load the model, make the folder. On a UserError nothing has been made."""
        out = Path(settings.out) if settings.out else Path("runs") / _name_of(settings.texts[0])
        runs.check_can_create(out, exact=settings.out is not None)
        config, tokenizer, checkpoint = _model_to_train(settings)
        settings = replace(settings, context=settings.context or config.block_size)
        corpus = read_corpus(settings.texts, tokenizer)
        if checkpoint is None:
            model = GPT(config, seed=settings.seed)
        else:
            model = make_model(replace(checkpoint, config=config))
            model.seed(settings.seed)
        trainer = cls(settings, model, tokenizer, corpus, None)
        trainer.folder = runs.create_run(out, exact=settings.out is not None)
        write_json(trainer.folder / runs.TOKENIZER_FILE, tokenizer.to_dict())
        trainer._write_config()
        return trainer

    @classmethod
    def resume(cls, folder: Path, settings: TrainSettings) -> "Trainer":
        """The run in ``folder``, where its last checkpoint left it. Raises DataError if the text has changed."""
        config, _ = runs.read_run_config(folder)
        tokenizer = load_tokenizer(folder / runs.TOKENIZER_FILE)
        path = runs.weights_file(folder, "last")
        weights, moments, state = runs.load_checkpoint(path)
        corpus = read_corpus(settings.texts, tokenizer)
        model = GPT.empty(config)
        model.load_state_dict(weights, str(path))
        trainer = cls(settings, model, tokenizer, corpus, folder)
        trainer._restore(state, moments, path)
        if trainer.finished or trainer.step > trainer.max_steps:
            raise ConfigError(
                f"{folder} is finished: it has done {trainer.step:,} steps, and was to do {trainer.max_steps:,}.\n"
                f"To train on, say how far: --resume {_quoted(folder)} --max-steps {trainer.step * 2}"
            )
        Metrics(folder / runs.METRICS_FILE).forget_after(trainer.step, looked=trainer.looked_at == trainer.step)
        trainer._write_config()
        log(f"going on with {folder} at step {trainer.step:,}")
        return trainer

    def _write_config(self):
        runs.write_run_config(self.folder, self.model.config, self.settings.to_dict())

    def _describe(self, corpus, windows, train, validation):
        characters = "" if corpus.characters is None else f"{corpus.characters:,} characters, "
        held_out = "" if validation is None else f" ({len(validation):,} for validation)"
        per_epoch = len(windows) / (self.settings.batch_size * self.settings.grad_accum)
        c = self.model.config
        return (
            f"text:  {characters}{len(train) + (0 if validation is None else len(validation)):,} tokens{held_out}\n"
            f"       {len(windows):,} windows of {self.settings.context:,} tokens, {per_epoch:,.1f} steps an epoch, "
            f"{self.max_steps:,} steps\n"
            f"model: {self.model.num_parameters():,} parameters: {c.n_layer} layers, {c.n_head} heads, "
            f"{c.n_embd} wide\n"
            f"       products {'by NumPy' if kernels.BACKEND == 'numpy' else precision.described()}"
        )

    # The loop

    def run(self) -> int:
        """Train to the end, or until Ctrl-C or SIGTERM. Returns the process's exit code, 0 in both cases."""
        log(self.description)
        self.metrics = Metrics(self.folder / runs.METRICS_FILE)
        self.began = self.saved_at = self.logged_at = time.monotonic()
        self.logged_step = self.step
        stopped_early = False
        # NumPy needn't warn of numbers that aren't finite: they end the run, which says so.
        with StopRequest() as stop, np.errstate(over="ignore", invalid="ignore"):
            self._compile(stop)
            while not (self.finished or stopped_early or stop.requested):
                if self._look_is_due():
                    stopped_early = self._look(stop)
                else:
                    self._train_one_step()
        self._save()
        if self.finished or stopped_early:
            self._report(stopped_early)
        else:
            log(f"stopped after step {self.step:,}; go on with: python -m npgpt.train --resume {_quoted(self.folder)}")
        return 0

    @property
    def finished(self) -> bool:
        """Whether all steps are done, and the look at the model after the last one."""
        return self.step >= self.max_steps and self.looked_at == self.step

    def _compile(self, stop):
        config, s = self.model.config, self.settings
        prompt = min(len(self.prompt), config.block_size) if self.sample_every else 0
        compile_for_training(config, s.batch_size, s.context, prompt, lambda: stop.requested)
        self.logged_at = time.monotonic()  # speed is that of training

    def _train_one_step(self):
        s, model = self.settings, self.model
        lr = warmup_cosine(self.step, s.lr, self.min_lr, self.warmup, self.max_steps)
        model.train()
        self.optimizer.zero_grad()
        loss = 0.0
        for i in range(s.grad_accum):
            part = model.loss(*self.batches.batch(self.step * s.grad_accum + i)) * (1 / s.grad_accum)
            part.backward()
            loss += part.item()
        norm = clip_grad_norm(model.trainable_parameters(), s.grad_clip or math.inf)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(f"step {self.step + 1}: the loss is {loss:g} and the gradient's norm {norm:g}")
        self.optimizer.lr = lr
        self.optimizer.step()
        self.step += 1
        if self.step % s.log_every == 0 or self.step in (1, self.max_steps):
            self._log_step(loss, lr, norm)

    def _diverged(self, what):
        saved = any((self.folder / name).exists() for name in (runs.LAST_FILE, runs.BEST_FILE))
        kept = f" {self.folder} keeps what was saved before." if saved else ""
        return ConfigError(f"{what}: training has diverged.\nTry a lower --lr, or a longer --warmup.{kept}")

    def _log_step(self, loss, lr, norm):
        s, now = self.settings, time.monotonic()
        tokens_a_step = s.batch_size * s.grad_accum * s.context
        speed = (self.step - self.logged_step) / max(now - self.logged_at, 1e-9)
        self.logged_at, self.logged_step = now, self.step
        left = (self.max_steps - self.step) / speed
        self.metrics.write(
            {
                "kind": "train", "step": self.step, "loss": loss, "lr": lr, "grad_norm": norm,
                "tokens": self.step * tokens_a_step, "tokens_per_second": round(speed * tokens_a_step, 1),
                "seconds": round(self._seconds_so_far(), 2), "seconds_left": round(left, 1),
            }
        )  # fmt: skip
        log(
            f"{self._progress()}  loss {loss:.4f}  lr {lr:.1e}  norm {norm:.2f}  "
            f"{_short(self.step * tokens_a_step)} tok, {_short(speed * tokens_a_step)}/s  {minutes(left)} left"
        )

    def _progress(self):
        return f"{self.step:>{len(str(self.max_steps))}}/{self.max_steps}"

    # Looking at the model

    def _look_is_due(self) -> bool:
        return self.looked_at != self.step and (self._due(self.eval_every) or self._due(self.sample_every))

    def _due(self, every: int) -> bool:
        """Whether now is a time for what happens every so many steps and at the end; 0 means never."""
        return every > 0 and (self.step % every == 0 or self.step == self.max_steps)

    def _look(self, stop) -> bool:
        """An evaluation or a sample, or both, and a checkpoint. Returns whether training should end early."""
        began = time.monotonic()
        enough = False
        if self._due(self.eval_every):
            losses = self._losses(stop)
            if losses is None:
                return False
            self.metrics.write({"kind": "eval", "step": self.step, **{f"{k}_loss": v for k, v in losses.items()}})
            log(f"{self._progress()}  " + "  ".join(f"{name} loss {loss:.4f}" for name, loss in losses.items()))
            enough = self._note_progress(losses.get("val"))
        if self._due(self.sample_every):
            self._log_sample()
        self.looked_at = self.step
        if time.monotonic() - self.saved_at > SAVE_AFTER:
            self._save()
        self.logged_at += time.monotonic() - began  # speed is that of training
        return enough

    @no_grad()
    def _losses(self, stop) -> dict[str, float] | None:
        """The mean over all targets of each split's batches, dropout off; None if a stop is requested meanwhile."""
        self.model.eval()
        losses = {}
        for name, batches in self.splits.items():
            total = count = 0
            for ids, targets in batches:
                if stop.requested:
                    return None
                total += self.model.loss(ids, targets).item() * targets.size
                count += targets.size
            losses[name] = total / count
            if not math.isfinite(losses[name]):
                raise self._diverged(f"after step {self.step}: the {name} loss is {losses[name]:g}")
        return losses

    def _note_progress(self, loss: float | None) -> bool:
        """Keep the best weights. Returns whether there have been --patience evaluations without progress."""
        if loss is None or self.step == 0:
            return False
        if loss < self.best - self.settings.min_delta:
            self.evaluations_without_progress = 0
        else:
            self.evaluations_without_progress += 1
        if loss < self.best:
            self.best, self.best_step = loss, self.step
            runs.save_weights(self.folder / runs.BEST_FILE, self.model.state_dict(), self.model.config)
        patience = self.settings.patience
        return patience is not None and self.evaluations_without_progress >= patience

    def _log_sample(self):
        sampling, decoder = Sampling(), self.tokenizer.decoder()
        new = stream(self.model, [self.prompt], self.settings.sample_tokens, sampling, seed=self.step)
        try:
            text = self.settings.sample_prompt + "".join(decoder.decode(int(id)) for (id,) in new)
        except FloatingPointError:
            raise self._diverged(f"after step {self.step}: a sample's logits are not finite") from None
        self.metrics.write({"kind": "sample", "step": self.step, "text": text})
        log_text(text)

    # Stopping and going on

    def _seconds_so_far(self):
        return self.seconds + time.monotonic() - self.began

    def _save(self):
        state = {
            "step": self.step,
            "looked_at": self.looked_at,
            "best": self.best,
            "best_step": self.best_step,
            "evaluations_without_progress": self.evaluations_without_progress,
            "dropout_rng": self.model.get_rng_state(),
            "fingerprint": self.fingerprint,
            "seconds": self._seconds_so_far(),
        }
        path = self.folder / runs.LAST_FILE
        runs.save_checkpoint(path, self.model.state_dict(), self.optimizer.state_dict(), state, self.model.config)
        self.saved_at = time.monotonic()

    def _restore(self, state, moments, path):
        if state.get("fingerprint") != self.fingerprint:
            raise DataError(
                f"{', '.join(self.settings.texts)}: the text is not the one that this run began with.\n"
                f"Put that text back, or start a new run from these weights with --init-from {_quoted(self.folder)}"
            )
        try:
            self.step = state["step"]
            self.looked_at = state["looked_at"]
            self.best, self.best_step = state["best"], state["best_step"]
            self.evaluations_without_progress = state["evaluations_without_progress"]
            self.seconds = state["seconds"]
            self.model.set_rng_state(state["dropout_rng"])
            self.optimizer.load_state_dict(moments, self.step)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: the training state is damaged: {error}") from None

    def _report(self, stopped_early):
        best = "" if self.best_step is None else f"; best validation loss {self.best:.4f} after step {self.best_step:,}"
        why = f", without progress in {self.evaluations_without_progress} evaluations" if stopped_early else ""
        print(f"trained {self.step:,} steps in {minutes(self._seconds_so_far())}{why}{best}")
        print(f"saved in {self.folder}; continue a text with: python -m npgpt.sample --model {_quoted(self.folder)}")


def _model_to_train(settings):
    """-> config, tokenizer, the checkpoint with the weights to start from or None"""
    if settings.init_from is None:
        tokenizer = make_tokenizer(settings.tokenizer or "gpt2", iter_text(settings.texts))
        config = GPTConfig.preset(
            settings.preset or "mini", vocab_size=tokenizer.vocab_size, **settings.model_changes()
        )
        return config, tokenizer, None
    checkpoint = open_checkpoint(settings.init_from)
    changes = settings.model_changes()
    dropout = changes.pop("dropout", checkpoint.config.dropout)
    context = changes.pop("block_size", None)
    if changes:
        flags = ", ".join("--" + name.replace("_", "-") for name in changes)
        raise ConfigError(f"--init-from brings the model's size with it: leave out {flags}")
    if context is not None and context > checkpoint.config.block_size:
        raise ConfigError(
            f"--context {context} is beyond the model's: {settings.init_from} has {checkpoint.config.block_size}"
        )
    return replace(checkpoint.config, dropout=dropout), checkpoint.require_tokenizer(), checkpoint


def _beginning(tokens, tokenizer) -> str:
    """The text of a document's first tokens, without what may be there of a further character."""
    decoder, text = tokenizer.decoder(), ""
    for id in tokens[:4].tolist():
        if id == tokenizer.end_of_text:
            break
        text += decoder.decode(id)
    return text


def _name_of(text: str) -> str:
    """A run's name from its first text's: data/the-verdict.txt -> the-verdict"""
    return Path(os.path.realpath(text)).stem or "run"  # resolve() raises RuntimeError on a link to itself


def _quoted(path: Path) -> str:
    """As it must be typed: runs/my text -> 'runs/my text'"""
    return shlex.quote(str(path))


def _short(number: float) -> str:
    """Three digits, four below 10k: 61440 -> 61.4k"""
    for unit, size, least in (("G", 1e9, 999.5e6), ("M", 1e6, 999.5e3), ("k", 1e3, 9999.5)):
        if number >= least:  # which rounds to 1.00 of the unit, to 10.0 of k
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
