"""How long a run will take, by the pace of its parts."""

from dataclasses import dataclass

from npgpt.training.plan import Plan
from npgpt.training.saver import PART, SAVE_EVERY


@dataclass(frozen=True)
class Pace:
    """Seconds that a run's parts take on this machine: a step, an evaluation, a sample, saving the state, a log line.

    log_every   steps from line to line
    """

    step: float
    evaluation: float
    sample: float
    save: float
    line: float = 0.0
    log_every: int = 1

    def seconds(self, plan: Plan) -> float:
        """Of a whole run by this plan, from its first evaluation to its last save.

        Each evaluation may find the best weights so far, which are a third of the state.

        >>> plan = Plan(8, 100, 1e-3, 0, 1e-4, 100, eval_every=40, sample_every=50, sample_prompt="")
        >>> Pace(step=2.0, evaluation=10.0, sample=3.0, save=6.0).seconds(plan)  # 200 + 40 + 9, and 24 of saves
        273.0
        """
        evaluations, samples = (_times(every, plan.max_steps) for every in (plan.eval_every, plan.sample_every))
        seconds = plan.max_steps * self.step + evaluations * self.evaluation + samples * self.sample
        seconds += _times(self.log_every, plan.max_steps) * self.line  # also after the first step and the last
        seconds += max(0, evaluations - 1) * self.save / 3
        saves = int(seconds / (max(SAVE_EVERY, PART * self.save) + self.save))
        return seconds + (saves + 1) * self.save


def _times(every, steps):
    """How often what comes every so many steps comes: also before the first step and after the last."""
    return 0 if not every else 1 + -(-steps // every)
