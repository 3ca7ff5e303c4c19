"""TrainSettings: all that ``python -m npgpt.train`` can be asked. Nothing heavy is imported."""

import math
import reprlib
from argparse import ArgumentTypeError
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from npgpt.commandline import as_flag, checked_text, choice, count, duration, flag, number, pathname
from npgpt.config import ACTIVATIONS, BASE_FORMATS, MATMUL_PRECISIONS, POSITIONS, PRESETS, GPTConfig
from npgpt.errors import ConfigError
from npgpt.process import MAX_THREADS
from npgpt.schedules import SCHEDULES
from npgpt.text import LOSSES, SPLITS, TOKENIZERS, tokenizer_name
from npgpt.training import plan as defaults
from npgpt.training.parts import check_parts, names, rates
from npgpt.training.plan import Plan

DATA, MODEL, STEPS, OPTIMIZER, RUN = "data", "model", "how long", "optimizer", "run"
PARTS = "what is trained: an adapter, or a part of the model"

AUTO = "auto"

_fraction = number("X", 0, 1, open_high=True)
_positive = number("X", 0, open_low=True)
_at_least_0 = number("X", 0)
_epochs = number("X", 0, 10**6, open_low=True)
tokenizer_flag = checked_text("|".join(TOKENIZERS), tokenizer_name)

# Settings that may change on resume: they touch neither the data nor the model nor the steps that are done.
RESUMABLE = (
    "max_steps", "epochs", "decay_steps", "patience", "min_delta",
    "keep", "log_every", "eval_every", "sample_every", "sample_prompt", "sample_tokens", "tensorboard", "recompute",
    "threads",
)  # fmt: skip


@dataclass(frozen=True)
class TrainSettings:
    """What a training run is asked to do. None: not given; ``resolve`` fills it in."""

    texts: tuple[str, ...] = ()

    tokenizer: str | None = flag(
        None, tokenizer_flag, f"kind of tokens; bpe:N is trained on the text (default: {defaults.TOKENIZER})", DATA
    )
    context: int | None = flag(
        None, count(), "tokens per sequence, and block_size of a new model (default: the model's)", DATA,
        aliases=("block_size",),
    )  # fmt: skip
    stride: int | None = flag(
        None, count(), "tokens from the start of a sequence to that of the next (default: the context)", DATA
    )
    batch_size: int = flag(8, count(), "sequences per batch", DATA)
    val_fraction: float = flag(0.1, _fraction, "part of the text kept for validation; 0 for none", DATA)
    split_by: str | None = flag(
        None,
        choice(*SPLITS),
        "hold out at any token, or whole documents (default: tokens; documents for conversations)",
        DATA,
    )
    loss_on: str = flag("all", choice(*LOSSES), "learn all tokens, or in conversations the assistant's only", DATA)

    preset: str | None = flag(
        None, choice(*PRESETS, AUTO), f"size: {', '.join(PRESETS)}, or {AUTO}, by --time-budget "
        f"(default: {defaults.PRESET})", MODEL, metavar="NAME",
    )  # fmt: skip
    n_layer: int | None = flag(None, count(), "blocks (default, as for the next two: the preset's)", MODEL)
    n_head: int | None = flag(None, count(), "heads of attention; must divide --n-embd", MODEL)
    n_embd: int | None = flag(None, count(), "width", MODEL)
    n_inner: int | None = flag(None, count(), "width inside the MLP (default: 4 times --n-embd)", MODEL)
    dropout: float | None = flag(
        None, _fraction, f"chance to zero an element (default: {GPTConfig.dropout:g}, or that of --init-from)", MODEL
    )
    bias: bool | None = flag(None, bool, "biases in linear layers and layer norms (default: yes)", MODEL)
    qkv_bias: bool | None = flag(None, bool, "biases of queries, keys, values (default: as --bias)", MODEL)
    tie_weights: bool | None = flag(None, bool, "one matrix for embedding and head (default: yes)", MODEL)
    position: str | None = flag(None, choice(*POSITIONS), f"position encoding (default: {GPTConfig.position})", MODEL)
    activation: str | None = flag(None, choice(*ACTIVATIONS), f"in the MLP (default: {GPTConfig.activation})", MODEL)
    init_from: str | None = flag(None, pathname, "start from this run, folder, or model by name (gpt2)", MODEL)

    lora_rank: int | None = flag(
        None, number("N", 1, 65536, whole=True), "train an adapter of this rank (LoRA), and leave --init-from as it is",
        PARTS,
    )  # fmt: skip
    lora_alpha: float | None = flag(
        None, _positive, "its result is multiplied by X / rank (default: twice the rank)", PARTS
    )
    lora_dropout: float | None = flag(None, _fraction, "dropout of the adapter's input (default: 0)", PARTS)
    lora_targets: str | None = flag(
        None, names, "layers that get one, such as c_attn,mlp.c_proj (default: all linear layers of the blocks)", PARTS
    )
    lora_base: str | None = flag(
        None, choice(*BASE_FORMATS), "the model beneath: nf4 holds its matrices in 4 bits (QLoRA; default: f32)", PARTS
    )
    freeze: str | None = flag(None, names, "don't train these parameters: wte,wpe or 'h.[0-5]' or '*.bias'", PARTS)
    train_only: str | None = flag(None, names, "train these alone: 'h.11.*,ln_f'", PARTS)
    lr_for: str | None = flag(
        None, rates, "learning rates of their own, which follow --lr's schedule: 'wte=1e-4,h.11=3e-4'", PARTS
    )

    max_steps: int | None = flag(
        None, count(), f"optimizer steps (default: {defaults.MAX_STEPS})", STEPS, aliases=("max_iters",)
    )
    epochs: float | None = flag(None, _epochs, "instead of --max-steps: times through the text", STEPS)
    time_budget: float | None = flag(
        None, duration, "instead of --max-steps: as many as end in this time, such as 10m or 1h30m", STEPS
    )
    patience: int | None = flag(None, count(), "stop after N evaluations without a lower validation loss", STEPS)
    min_delta: float = flag(0.0, _at_least_0, "by how much the loss must fall to count as better", STEPS)

    lr: float = flag(1e-3, _positive, "highest learning rate", OPTIMIZER, aliases=("learning_rate",))
    schedule: str = flag(
        defaults.SCHEDULE, choice(*SCHEDULES), "of the learning rate, after the warm-up; wsd falls late", OPTIMIZER
    )
    warmup: int | None = flag(
        None, count(0), f"warm-up steps, until --lr is reached (default: --decay-steps / {defaults.WARMUP_PART})",
        OPTIMIZER, aliases=("warmup_iters",),
    )  # fmt: skip
    min_lr: float | None = flag(
        None, _at_least_0, f"learning rate from --decay-steps on (default: --lr / {defaults.MIN_LR_PART})", OPTIMIZER
    )
    decay_steps: int | None = flag(
        None, count(), "step at which --min-lr is reached (default: the last; a resumed run keeps its own)", OPTIMIZER,
        aliases=("lr_decay_iters",),
    )  # fmt: skip
    decay_fraction: float | None = flag(
        None, _fraction, f"part of --decay-steps in which wsd falls (default: {defaults.DECAY_FRACTION:g})",
        OPTIMIZER,
    )  # fmt: skip
    grad_accum: int = flag(1, count(), "batches in a step", OPTIMIZER, aliases=("gradient_accumulation_steps",))
    grad_clip: float = flag(1.0, _at_least_0, "largest norm of the gradient; 0 for no limit", OPTIMIZER)
    weight_decay: float = flag(0.1, _at_least_0, "AdamW's, of matrices", OPTIMIZER)
    beta1: float = flag(0.9, _fraction, "decay of the gradient's running mean", OPTIMIZER)
    beta2: float = flag(0.95, _fraction, "decay of its running mean square", OPTIMIZER)
    seed: int = flag(0, number("N", 0, 2**63 - 1, whole=True), "of initial weights, order and dropout", OPTIMIZER)

    out: str | None = flag(
        None, pathname, "the run's folder, a new one (default: runs/ and the text's name)", RUN, aliases=("out_dir",)
    )
    keep: int = flag(1, count(0), "earlier training states kept beside the last one, each as large", RUN)
    log_every: int = flag(10, count(), "steps between log lines", RUN, aliases=("log_interval",))
    eval_every: int | None = flag(
        None, count(), f"steps between evaluations (default: all steps / {defaults.EVAL_PART})", RUN,
        aliases=("eval_interval",),
    )  # fmt: skip
    eval_batches: int = flag(8, count(), "batches of each split in an evaluation", RUN, aliases=("eval_iters",))
    sample_every: int | None = flag(None, count(0), "steps between samples; 0: none (default: --eval-every)", RUN)
    sample_prompt: str | None = flag(None, str, "how samples begin (default: as the text)", RUN, metavar="TEXT")
    sample_tokens: int = flag(40, count(), "tokens per sample", RUN)
    tensorboard: bool = flag(False, bool, "also write event files for TensorBoard to the run's folder", RUN)
    recompute: bool = flag(False, bool, "activation checkpointing: less memory, more time", RUN)
    threads: int | None = flag(None, number("N", 1, MAX_THREADS, whole=True), "threads (default: one per core)", RUN)
    matmul_precision: str = flag(
        "highest", choice(*MATMUL_PRECISIONS), "of large matrix products; medium rounds their factors to bfloat16", RUN
    )

    def __post_init__(self):
        lengths = [name for name in ("max_steps", "epochs", "time_budget") if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise ConfigError(f"{' and '.join(map(as_flag, lengths))} both say how long to train: give one")
        if self.time_budget == 0:
            raise ConfigError("--time-budget 0 leaves no time to train")
        given = {"tokenizer": self.tokenizer, "preset": self.preset, **self.config_overrides()}
        fixed = [name for name, value in given.items() if value is not None and name not in ("dropout", "block_size")]
        if self.init_from is not None and fixed:
            flags = ", ".join(map(as_flag, fixed))
            raise ConfigError(f"--init-from brings the model and its tokenizer with it: leave out {flags}")
        check_parts(self)
        if self.min_lr is not None and self.min_lr > self.lr:
            raise ConfigError(f"--min-lr {self.min_lr:g} is above --lr {self.lr:g}")
        if self.schedule == "constant" and not (self.min_lr is None and self.decay_steps is None):
            raise ConfigError("--schedule constant never falls: leave out --min-lr and --decay-steps")
        if self.warmup is not None and self.decay_steps is not None and self.warmup > self.decay_steps:
            raise ConfigError(
                f"--warmup {self.warmup} is above --decay-steps {self.decay_steps}: --lr is never reached"
            )
        if self.schedule != "wsd" and self.decay_fraction is not None:
            raise ConfigError(f"--decay-fraction is for --schedule wsd, not {self.schedule}")
        if self.val_fraction == 0 and self.patience is not None:
            raise ConfigError("--patience watches the validation loss: it needs a --val-fraction above 0")

    def resolve(self, n_windows: int, context: int, sample_prompt: str = "") -> Plan:
        """Fill in what was not given: the plan of a run on ``n_windows`` sequences of ``context`` tokens.

        >>> plan = TrainSettings(epochs=10.0, batch_size=4).resolve(n_windows=100, context=64)
        >>> plan.max_steps, plan.decay_steps, plan.warmup, plan.eval_every
        (250, 250, 12, 25)
        """
        max_steps = defaults.MAX_STEPS if self.max_steps is None else self.max_steps
        if self.epochs is not None:
            batches = math.ceil(round(self.epochs * n_windows, 6) / self.batch_size)
            max_steps = max(1, math.ceil(batches / self.grad_accum))
            if max_steps >= 1 << 31:
                raise ConfigError(f"--epochs {self.epochs:g} are {max_steps:,} steps: too many")
        decay_steps = max_steps if self.decay_steps is None else self.decay_steps
        eval_every = max(1, max_steps // defaults.EVAL_PART) if self.eval_every is None else self.eval_every
        return Plan(
            context=context,
            max_steps=max_steps,
            lr=self.lr,
            warmup=decay_steps // defaults.WARMUP_PART if self.warmup is None else self.warmup,
            min_lr=self.lr / defaults.MIN_LR_PART if self.min_lr is None else self.min_lr,
            decay_steps=decay_steps,
            eval_every=eval_every,
            sample_every=eval_every if self.sample_every is None else self.sample_every,
            sample_prompt=sample_prompt if self.sample_prompt is None else self.sample_prompt,
            schedule=self.schedule,
            time_budget=self.time_budget or 0.0,
            decay_fraction=defaults.DECAY_FRACTION if self.decay_fraction is None else self.decay_fraction,
        )

    def to_dict(self) -> dict[str, Any]:
        """All settings, as JSON can hold them."""
        return {**asdict(self), "texts": list(self.texts)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainSettings":
        """The inverse of ``to_dict``, with every value checked as if it had been typed. Raises ConfigError."""
        texts = values.get("texts", [])
        if not (isinstance(texts, list) and all(isinstance(t, str) for t in texts)):
            raise ConfigError("texts must be a list of names")
        check_values({name: value for name, value in values.items() if name != "texts" and value is not None})
        return cls(**{**values, "texts": tuple(texts)})

    def config_overrides(self) -> dict[str, Any]:
        """The fields of GPTConfig that were given."""
        values = {**asdict(self), "block_size": self.context}
        return {f.name: values[f.name] for f in fields(GPTConfig) if values.get(f.name) is not None}


def plan_from_dict(values: dict[str, Any]) -> Plan:
    """A stored plan, whose values are checked as the settings of the same names are. Raises ConfigError."""
    known = {f.name for f in fields(Plan)}
    needed = {f.name for f in fields(Plan) if f.default is MISSING}
    if not needed <= set(values) <= known:
        raise ConfigError(f"a plan must have {', '.join(sorted(known))}, nothing else")
    check_values(values)
    return Plan(**values)


def check_values(values: dict[str, Any]) -> None:
    """Raise ConfigError on a setting that doesn't exist, or a value that its flag would not take."""
    known = {f.name: f.metadata.get("type") for f in fields(TrainSettings)}
    for name, value in values.items():
        parse = known.get(name)
        if parse is None:
            raise ConfigError(f"unknown setting of a run: {name[:100]!r}")
        if parse in (bool, str):
            is_right = isinstance(value, parse)
        else:
            try:
                is_right = parse(str(value)) == value
            except (ArgumentTypeError, ValueError):
                is_right = False
        if not is_right:
            raise ConfigError(f"setting {name} can't be {reprlib.repr(value)}")
