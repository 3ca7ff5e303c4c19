"""python -m bench.book_plan SETTINGS FOLDER : the plan of a run of npgpt.train, for a peer to do the same.

SETTINGS are those of TrainSettings as JSON. FOLDER gets plan.json and weights.safetensors, the initial weights.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from npgpt.checkpoints.runs import save_weights
from npgpt.training.begin import prepare
from npgpt.training.settings import TrainSettings


def main():
    folder = Path(sys.argv[2])
    run = prepare(TrainSettings.from_dict(json.loads(sys.argv[1])))
    save_weights(folder / "weights.safetensors", run.model.state_dict(), run.model.config)
    plan = {
        "model": run.model.config.to_dict(),
        "settings": run.settings.to_dict(),
        "plan": asdict(run.plan),
        "learning_rates": [run.plan.learning_rate(step) for step in range(run.plan.max_steps)],
        "prompt": [int(token) for token in run.samples.prompt],
    }
    (folder / "plan.json").write_text(json.dumps(plan))


if __name__ == "__main__":
    main()
