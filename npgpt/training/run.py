"""Run: the parts of a training run, by name. ``loop.fit`` trains it."""

from pathlib import Path
from typing import Any

from npgpt.checkpoints import runs
from npgpt.gpt import GPT
from npgpt.optim import AdamW
from npgpt.text.tokenizers import Tokenizer, save_tokenizer
from npgpt.training.data import TrainingData
from npgpt.training.evaluation import EarlyStopping, Evaluation, Samples
from npgpt.training.folder import write_run_config
from npgpt.training.log import Metrics, Progress
from npgpt.training.plan import Plan
from npgpt.training.saver import Saver
from npgpt.training.settings import TrainSettings


class Run:
    """A model, its optimizer, its data, its plan, and what watches them. Each part knows its own state."""

    def __init__(self, settings: TrainSettings, plan: Plan, model: GPT, tokenizer: Tokenizer, data: TrainingData):
        s = settings
        self.settings, self.plan, self.model, self.tokenizer, self.data = s, plan, model, tokenizer, data
        model.recompute = s.recompute
        self.optimizer = AdamW(model.named_parameters(), s.lr, (s.beta1, s.beta2), weight_decay=s.weight_decay)
        self.evaluation = Evaluation(model, data.evaluation_splits(), plan)
        self.early_stopping = EarlyStopping(s.patience, s.min_delta)
        self.samples = Samples(model, tokenizer, plan, s.sample_tokens)
        self.progress = Progress(plan, s.log_every, s.batch_size * s.grad_accum * plan.context)
        self.step = 0  # steps done
        self.products: dict[str, str] = {}  # how its large products are made (products.py); {}: not chosen yet
        names = ("data", "evaluation", "early_stopping", "samples", "progress")
        self.stateful: dict[str, Any] = {name: getattr(self, name) for name in names}

    def follow(self, plan: Plan) -> None:
        """Go by another plan from now on."""
        self.plan = self.progress.plan = self.evaluation.plan = self.samples.plan = plan
        self.evaluation.every, self.samples.every = plan.eval_every, plan.sample_every

    def open(self, folder: Path, on_disk: int | None = None) -> None:
        """Write to this folder from now on. ``on_disk``: the step of the last.safetensors that is there and whole."""
        self.folder = folder
        self.progress.metrics = Metrics(folder / runs.METRICS_FILE)
        parts = self.model, self.optimizer, self.state_dict, self.describe
        self.saver = Saver(folder, *parts, self.settings.keep, on_disk)

    def describe(self, folder: Path) -> None:
        """Write what a run's folder holds besides its state: the tokenizer, then config.json, which makes it a run."""
        save_tokenizer(self.tokenizer, folder / runs.TOKENIZER_FILE)
        write_run_config(folder, self.model.config, self.settings.to_dict(), self.plan, self.products)

    @property
    def finished(self) -> bool:
        """Whether all steps are done, and the evaluation and the sample after the last one."""
        all_done = self.step >= self.plan.max_steps
        return all_done and not self.evaluation.due(self.step) and not self.samples.due(self.step)

    def state_dict(self) -> dict[str, Any]:
        """All state but the weights and the optimizer's arrays, as JSON can hold it."""
        parts = {name: part.state_dict() for name, part in self.stateful.items()}
        return {"step": self.step, "dropout": self.model.get_rng_state(), **parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``. Raises DataError if the text has changed, KeyError, TypeError, ValueError."""
        for name, part in self.stateful.items():
            part.load_state_dict(state[name])
        self.model.set_rng_state(state["dropout"])
        self.step = int(state["step"])
