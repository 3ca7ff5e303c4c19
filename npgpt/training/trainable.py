"""The model of a run: which of its parameters are trained, and what of it the run's files hold.

Without an adapter that is all of the model, frozen parameters too. With one it is the adapter alone, and where the
model beneath is: the base is never written, and a run whose base has changed isn't resumed.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from npgpt.adapters.adapter import Adapter, LoRAConfig, new_adapter
from npgpt.adapters.files import arrays_of, checksum_of, metadata_of, open_adapter, open_base
from npgpt.adapters.lora import adapter_of, attach
from npgpt.adapters.peft import write_peft_files
from npgpt.adapters.quantized import load_quantized
from npgpt.checkpoints import make_model, open_checkpoint
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError, ConfigError
from npgpt.gpt import GPT, parameter_count
from npgpt.name_patterns import matching, split_patterns
from npgpt.precompile import AdapterToCompile
from npgpt.training.parts import parse_rates
from npgpt.training.settings import TrainSettings


class StoredModel:
    """A run's model as its files hold it: ``adapter`` alone, if there is one.

    The adapter's arrays are those that are trained, no copies.
    """

    def __init__(self, model: GPT, adapter: Adapter | None = None):
        self.model, self.config, self.adapter = model, model.config, adapter

    def state_dict(self) -> dict[str, np.ndarray]:
        """{name: array}: the arrays themselves."""
        return self.model.state_dict() if self.adapter is None else arrays_of(self.adapter)

    def metadata(self) -> dict[str, str]:
        """What the files say besides the model's configuration."""
        return {} if self.adapter is None else metadata_of(self.adapter)

    def to_compile(self) -> dict[str, AdapterToCompile]:
        """What ``compile_for_training`` must know of the adapter, if there is one."""
        a = self.adapter
        return {} if a is None else {"adapter": AdapterToCompile(a.config.rank, a.config.dropout, a.base_format)}

    def describe(self) -> str:
        """Lines for the log: how many parameters there are, and how many are trained."""
        c, total = self.config, parameter_count(self.config)
        trained = sum(p.size for p in self.model.trainable_parameters())
        lines = [f"model: {total:,} parameters: {c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide"]
        if self.adapter is not None:
            held = "frozen, in NF4 and bfloat16" if self.adapter.base_format == "nf4" else "frozen"
            beside = f"an adapter of rank {self.adapter.config.rank} beside {len(self.adapter.matrices)} layers"
            lines.append(f"       {held}; {beside}")
        if trained != total:
            lines.append(f"       {trained:,} parameters are trained, {trained / total:.2%} of that number")
        return "\n".join(lines)

    def write_beside(self, folder: Path) -> None:
        """Write what other tools read beside the run's own files: an adapter as peft has it. Raises CheckpointError."""
        if self.adapter is not None:
            try:
                write_peft_files(folder, self.adapter)
            except OSError as error:
                raise CheckpointError(f"{folder}: can't be written: {error.strerror}") from error


def new_model(settings: TrainSettings, config: GPTConfig, checkpoint: Checkpoint | None) -> StoredModel:
    """The model that a new run begins with, and in it what the settings say is trained. Raises ConfigError."""
    if checkpoint is None:
        stored = StoredModel(GPT(config, seed=settings.seed))
    elif settings.lora_rank is None:
        stored = StoredModel(make_model(replace(checkpoint, config=config)))
    else:
        path, format = str(settings.init_from), settings.lora_base or "f32"
        base = os.path.abspath(path) if os.path.exists(path) else path
        adapter = new_adapter(config, _lora_config(settings), settings.seed)
        adapter = replace(adapter, base=base, checksum=checksum_of(checkpoint), base_format=format)
        stored = _with_base(replace(checkpoint, config=config), adapter)
    stored.model.seed(settings.seed)
    choose(stored.model, settings)
    return stored


def stored_model(settings: TrainSettings, config: GPTConfig, weights: dict[str, np.ndarray], path: Path) -> StoredModel:
    """The model of a stopped run, with the ``weights`` that were stored at ``path``.

    Raises CheckpointError, also if the model beneath an adapter is not where it was, or is another one.
    """
    if settings.lora_rank is None:
        model = GPT.empty(config)
        model.load_state_dict(weights, str(path))
        stored = StoredModel(model)
    else:
        adapter = open_adapter(path)
        wanted = new_adapter(config, _lora_config(settings))
        if adapter.config != wanted.config or _shapes(adapter) != _shapes(wanted):
            raise CheckpointError(f"{path}: the adapter is not the one that the run's settings describe")
        base = open_base(adapter, open_checkpoint)
        stored = _with_base(replace(base, config=config), adapter)
    choose(stored.model, settings)
    return stored


def choose(model: GPT, settings: TrainSettings) -> None:
    """Freeze what the settings say isn't trained.

    Raises ConfigError if a pattern matches nothing that could be trained, or nothing is left to train.
    """
    # Beside an adapter the model itself is frozen already, and a pattern that matches only that would do nothing.
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    what = "parameter" if settings.lora_rank is None else f"part of the adapter, such as {names[0]}"
    kept = set(names) if settings.train_only is None else _covered(names, settings.train_only, what)
    if settings.freeze is not None:
        kept -= _covered(names, settings.freeze, what)
    for name, p in model.named_parameters():
        p.requires_grad = name in kept
    if not kept:
        raise ConfigError(f"nothing is left to train: --train-only and --freeze leave no {what}")


def check_names(config: GPTConfig, settings: TrainSettings) -> None:
    """Raise ConfigError if a pattern matches nothing that would be trained of such a model. It takes no memory."""
    model = GPT.empty(config)
    choose(model, settings)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    for pattern in parse_rates(settings.lr_for) if settings.lr_for else ():
        matching(names, pattern, "parameter that is trained")


def _covered(names: list[str], patterns: str, what: str) -> set[str]:
    """Raises ConfigError if a pattern covers none of the names."""
    return {name for pattern in split_patterns(patterns) for name in matching(names, pattern, what)}


def _with_base(checkpoint: Checkpoint, adapter: Adapter) -> StoredModel:
    model = load_quantized(checkpoint) if adapter.base_format == "nf4" else make_model(checkpoint)
    try:
        attach(model, adapter, trainable=True)
    except ConfigError as error:
        raise CheckpointError(f"{adapter.source}: {error}") from None
    return StoredModel(model, adapter_of(model))


def _lora_config(settings: TrainSettings) -> LoRAConfig:
    s = settings
    targets = LoRAConfig.targets if s.lora_targets is None else tuple(split_patterns(s.lora_targets))
    return LoRAConfig(int(s.lora_rank or 0), s.lora_alpha or 0.0, s.lora_dropout or 0.0, targets)


def _shapes(adapter: Adapter) -> dict[str, tuple]:
    return {name: (A.shape, B.shape) for name, (A, B) in adapter.matrices.items()}
