"""python -m bench.book_plan SETTINGS FOLDER : what a run of npgpt.train would do, for a peer to do the same.

SETTINGS are those of TrainSettings as JSON. FOLDER gets plan.json and weights.safetensors, the initial weights.
"""

import json
import sys
from pathlib import Path

from npgpt.checkpoints.runs import save_weights
from npgpt.optim import warmup_cosine
from npgpt.training.settings import TrainSettings
from npgpt.training.trainer import Trainer


def main():
    folder = Path(sys.argv[2])
    settings = TrainSettings.from_dict({**json.loads(sys.argv[1]), "out": str(folder / "run")})
    trainer = Trainer.start(settings)  # makes the model and its folder, and doesn't train
    save_weights(folder / "weights.safetensors", trainer.model.state_dict(), trainer.model.config)
    course = (settings.lr, trainer.min_lr, trainer.warmup, trainer.max_steps)
    plan = {
        "model": trainer.model.config.to_dict(),
        "settings": trainer.settings.to_dict(),
        "learning_rates": [warmup_cosine(step, *course) for step in range(trainer.max_steps)],
        "eval_every": trainer.eval_every,
        "sample_every": trainer.sample_every,
        "prompt": [int(token) for token in trainer.prompt],
    }
    (folder / "plan.json").write_text(json.dumps(plan))


if __name__ == "__main__":
    main()
