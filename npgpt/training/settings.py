"""TrainSettings: all that ``python -m npgpt.train`` can be told; stored with each run. It imports nothing heavy."""

from argparse import ArgumentTypeError
from dataclasses import asdict, dataclass, fields

from npgpt.commandline import choice, count, flag, number, pathname
from npgpt.config import ACTIVATIONS, POSITIONS, PRESETS
from npgpt.errors import ConfigError

DATA, MODEL, STEPS, OPTIMIZER, RUN = "data", "model", "how long", "optimizer", "run"

_fraction = number("X", 0, 1, open_high=True)
_positive = number("X", 0, open_low=True)
_at_least_0 = number("X", 0)
_epochs = number("X", 0, 10**6, open_low=True)

# A run that goes on may be told otherwise about these: they don't touch the data, the model or what came before.
CHANGEABLE = (
    "max_steps", "epochs", "patience", "min_delta",
    "log_every", "eval_every", "sample_every", "sample_prompt", "sample_tokens", "recompute", "threads",
)  # fmt: skip


@dataclass(frozen=True)
class TrainSettings:
    """The settings of a training run. None means: not said, see the flag's help for what then happens."""

    texts: tuple[str, ...] = ()

    tokenizer: str | None = flag(None, choice("gpt2", "char", "byte"), "how text becomes tokens (default: gpt2)", DATA)
    context: int | None = flag(
        None, count(), "tokens a window, also of a new model (default: the preset's)", DATA, "N", ("block_size",)
    )
    stride: int | None = flag(None, count(), "tokens from window to window (default: the context)", DATA, "N")
    batch_size: int = flag(8, count(), "windows a batch", DATA)
    val_fraction: float = flag(0.1, _fraction, "part of the text kept for validation; 0 for none", DATA)
    split_by: str = flag("tokens", choice("tokens", "documents"), "cut it off anywhere, or between files", DATA)

    preset: str | None = flag(
        None, choice(*PRESETS), f"a named size: {', '.join(PRESETS)} (default: mini)", MODEL, "NAME"
    )
    n_layer: int | None = flag(None, count(), "blocks", MODEL)
    n_head: int | None = flag(None, count(), "heads of attention; must divide --n-embd", MODEL)
    n_embd: int | None = flag(None, count(), "width", MODEL)
    n_inner: int | None = flag(None, count(), "width inside the MLP (default: 4 times --n-embd)", MODEL)
    dropout: float | None = flag(None, _fraction, "probability of zeroing an element (default: 0)", MODEL)
    bias: bool | None = flag(None, bool, "biases in linear layers and layer norms (default: yes)", MODEL)
    qkv_bias: bool | None = flag(None, bool, "biases of queries, keys, values (default: as --bias)", MODEL)
    tie_weights: bool | None = flag(None, bool, "one matrix for embedding and head (default: yes)", MODEL)
    position: str | None = flag(None, choice(*POSITIONS), "kind of positions (default: learned)", MODEL)
    activation: str | None = flag(None, choice(*ACTIVATIONS), "in the MLP (default: gelu_new)", MODEL)
    init_from: str | None = flag(None, pathname, "start from this run, folder, or model by name (gpt2)", MODEL)

    max_steps: int | None = flag(None, count(), "steps of the optimizer (default: 200)", STEPS, "N", ("max_iters",))
    epochs: float | None = flag(None, _epochs, "instead of --max-steps: times through the text", STEPS)
    patience: int | None = flag(None, count(), "stop after N evaluations without a better validation loss", STEPS)
    min_delta: float = flag(0.0, _at_least_0, "by how much the loss must fall to count as better", STEPS)

    lr: float = flag(1e-3, _positive, "highest learning rate", OPTIMIZER, None, ("learning_rate",))
    min_lr: float | None = flag(None, _at_least_0, "learning rate at the end (default: a tenth of --lr)", OPTIMIZER)
    warmup: int | None = flag(
        None, count(0), "steps until --lr is reached (default: a twentieth)", OPTIMIZER, "N", ("warmup_iters",)
    )
    grad_accum: int = flag(
        1, count(), "batches whose gradients make a step", OPTIMIZER, "N", ("gradient_accumulation_steps",)
    )
    grad_clip: float = flag(1.0, _at_least_0, "largest norm of the gradient; 0 for no limit", OPTIMIZER)
    weight_decay: float = flag(0.1, _at_least_0, "of matrices, decoupled from the gradient", OPTIMIZER)
    beta1: float = flag(0.9, _fraction, "decay of the gradient's running mean", OPTIMIZER)
    beta2: float = flag(0.95, _fraction, "decay of its running mean square", OPTIMIZER)
    seed: int = flag(0, number("N", 0, 2**63 - 1, whole=True), "of weights, order and dropout", OPTIMIZER)

    out: str | None = flag(None, pathname, "the run's folder, a new one (default: runs/ and the text's name)", RUN)
    log_every: int = flag(10, count(), "steps from log line to log line", RUN, "N", ("log_interval",))
    eval_every: int | None = flag(
        None, count(), "steps from evaluation to evaluation (default: a tenth)", RUN, "N", ("eval_interval",)
    )
    eval_batches: int = flag(8, count(), "batches of each split in an evaluation", RUN, "N", ("eval_iters",))
    sample_every: int | None = flag(None, count(0), "steps between samples; 0: none (default: at evaluations)", RUN)
    sample_prompt: str | None = flag(None, str, "what samples begin with (default: the text's beginning)", RUN, "TEXT")
    sample_tokens: int = flag(40, count(), "tokens a sample", RUN)
    recompute: bool = flag(False, bool, "compute blocks again on the way back: less memory, more time", RUN)
    threads: int | None = flag(None, number("N", 1, 1024, whole=True), "threads (default: one a core)", RUN)
    matmul_precision: str = flag(
        "highest", choice("highest", "high", "medium"), "of large products; medium: factors in bfloat16", RUN
    )

    def __post_init__(self):
        if self.max_steps is not None and self.epochs is not None:
            raise ConfigError("--max-steps and --epochs both say how long to train: give one")
        if self.init_from is not None and self.preset is not None:
            raise ConfigError("--init-from brings the model's size with it: leave out --preset")
        if self.init_from is not None and self.tokenizer is not None:
            raise ConfigError("--init-from brings the model's tokenizer with it: leave out --tokenizer")
        if self.min_lr is not None and self.min_lr > self.lr:
            raise ConfigError(f"--min-lr {self.min_lr:g} is above --lr {self.lr:g}")
        if self.val_fraction == 0 and self.patience is not None:
            raise ConfigError("--patience watches the validation loss: it needs a --val-fraction above 0")

    def to_dict(self) -> dict:
        return {**asdict(self), "texts": list(self.texts)}

    @classmethod
    def from_dict(cls, values: dict) -> "TrainSettings":
        """The inverse of ``to_dict``, with every value checked as if it had been typed. Raises ConfigError."""
        known = {f.name: f for f in fields(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(f"unknown setting of a run: {unknown[0]!r}")
        texts = values.get("texts", [])
        if not (isinstance(texts, list) and all(isinstance(t, str) for t in texts)):
            raise ConfigError("texts must be a list of names")
        for name, value in values.items():
            if name != "texts" and value is not None:
                _check(name, value, known[name])
        return cls(**{**values, "texts": tuple(texts)})

    def model_changes(self) -> dict:
        """The fields of GPTConfig that were said."""
        names = ("n_layer", "n_head", "n_embd", "n_inner", "dropout", "bias", "qkv_bias", "tie_weights")
        names += ("position", "activation")
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return changes if self.context is None else {**changes, "block_size": self.context}


def _check(name, value, field):
    kind = field.metadata["kind"]
    if kind in (bool, str):
        good = isinstance(value, kind)
    else:
        try:
            good = not isinstance(value, bool) and kind(str(value)) == value
        except (ArgumentTypeError, ValueError):
            good = False
    if not good:
        raise ConfigError(f"setting {name} can't be {value!r}")
