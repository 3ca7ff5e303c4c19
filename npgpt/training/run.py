"""Run: the parts of a training run, by name. ``loop.fit`` trains it."""

from pathlib import Path
from typing import Any

from npgpt.checkpoints import runs
from npgpt.checkpoints.shared.atomic import write_json
from npgpt.optim import AdamW
from npgpt.text.tokenizers import Tokenizer
from npgpt.training.data import TrainingData
from npgpt.training.evaluation import EarlyStopping, Evaluation, Samples, count_of
from npgpt.training.folder import write_run_config
from npgpt.training.inspection import Inspection
from npgpt.training.metrics import Metrics
from npgpt.training.parts import parse_rates
from npgpt.training.plan import Plan
from npgpt.training.progress import Progress
from npgpt.training.reporter import Reporter
from npgpt.training.saver import Saver
from npgpt.training.settings import TrainSettings
from npgpt.training.team import ALONE, Alone
from npgpt.training.tensorboard import EventFiles, check_installed
from npgpt.training.trainable import StoredModel


class Run:
    """A model, its optimizer, its data, its plan, and what watches them. Each part knows its own state.

    stored      the model, and what its files hold of it
    occupied    bytes that the process took before the model was made
    """

    def __init__(
        self,
        settings: TrainSettings,
        plan: Plan,
        stored: StoredModel,
        tokenizer: Tokenizer,
        data: TrainingData,
        occupied: int = 0,
    ):
        self.settings, self.plan, self.stored, self.tokenizer, self.data = settings, plan, stored, tokenizer, data
        self.occupied = occupied
        s, model = settings, stored.model
        self.model = model
        model.recompute = s.recompute
        if s.tensorboard:
            check_installed()
        rates = parse_rates(s.lr_for) if s.lr_for else None
        betas = s.beta1, s.beta2
        self.optimizer = AdamW(model.named_parameters(), s.lr, betas, weight_decay=s.weight_decay, lr_for=rates)
        splits = data.evaluation_splits()
        self.evaluation = Evaluation(model, splits, plan)
        self.early_stopping = EarlyStopping(s.patience, s.min_delta)
        self.samples = Samples(model, tokenizer, plan, s.sample_tokens)
        self.inspection = Inspection(model, tokenizer, splits.get("val", splits["train"])[0])
        self.progress = Progress(plan, s.log_every, s.batch_size * s.grad_accum * plan.context, self.inspection)
        self.step = 0  # steps done
        self.products: dict[str, str] = {}  # how its large products are made (products.py); {}: not chosen yet
        self.work_with(ALONE)
        names = ("data", "evaluation", "early_stopping", "samples", "progress")
        self.stateful: dict[str, Any] = {name: getattr(self, name) for name in names}

    def follow(self, plan: Plan) -> None:
        """Go by another plan from now on."""
        self.plan = self.progress.plan = self.evaluation.plan = self.samples.plan = plan

    def open(self, folder: Path, on_disk: int | None = None) -> None:
        """Write to this folder from now on. ``on_disk``: the step of the last.safetensors that is there and whole."""
        self.folder = folder
        self.events = EventFiles(folder, self.step) if self.settings.tensorboard else None
        self.progress.metrics = Metrics(folder / runs.METRICS_FILE, *([self.events.write] if self.events else []))
        self.progress.report = Reporter(folder)
        parts = self.stored, self.optimizer, self.state_dict, self.describe
        self.saver = Saver(folder, *parts, self.settings.keep, on_disk)

    def describe(self, folder: Path) -> None:
        """Write what a run's folder holds besides its state: the tokenizer, then config.json, which makes it a run."""
        write_json(folder / runs.TOKENIZER_FILE, self.tokenizer.to_dict())
        write_run_config(folder, self.model.config, self.settings.to_dict(), self.plan, self.products)

    def work_with(self, team: Alone) -> None:
        """Have steps and evaluations computed by these processes from now on."""
        self.team = self.evaluation.team = team

    def close(self) -> None:
        """Write the report once more, and close the event files."""
        self.progress.end()
        if self.events is not None:
            self.events.close()

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
        self.step = count_of(state["step"])
