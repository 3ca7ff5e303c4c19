"""What a run will take, worked out before it trains: its memory from the sizes of the model, its time from its pace."""

import sys
from dataclasses import dataclass
from pathlib import Path

from npgpt.config import GPTConfig
from npgpt.ops.linear_cross_entropy import ROWS
from npgpt.training.plan import Plan
from npgpt.training.saver import PART, SAVE_EVERY

FLOAT = 4  # bytes
KERNELS = 40 << 20  # bytes of compiled code and what it keeps


@dataclass(frozen=True)
class Pace:
    """Seconds that a run's parts take on this machine: a step, an evaluation, a sample, saving the state."""

    step: float
    evaluation: float
    sample: float
    save: float

    def seconds(self, plan: Plan) -> float:
        """Of a whole run by this plan, from its first evaluation to its last save.

        Each evaluation may find the best weights so far, which are a third of the state.

        >>> plan = Plan(8, 100, 1e-3, 0, 1e-4, 100, eval_every=40, sample_every=50, sample_prompt="")
        >>> Pace(step=2.0, evaluation=10.0, sample=3.0, save=6.0).seconds(plan)  # 200 + 40 + 9, and 24 of saves
        273.0
        """
        evaluations, samples = (_times(every, plan.max_steps) for every in (plan.eval_every, plan.sample_every))
        seconds = plan.max_steps * self.step + evaluations * self.evaluation + samples * self.sample
        seconds += max(0, evaluations - 1) * self.save / 3
        saves = int(seconds / (max(SAVE_EVERY, PART * self.save) + self.save))
        return seconds + (saves + 1) * self.save


def _times(every, steps):
    """How often what comes every so many steps comes: also before the first step and after the last."""
    return 0 if not every else 1 + -(-steps // every)


def step_bytes(config: GPTConfig, sequences: int, context: int, accumulates: bool, recompute: bool) -> int:
    """The most memory that a training step holds besides weights and moments, in bytes, all of it float32.

    With R = sequences * context positions, C channels, I inside the MLP, V ids, a block keeps for its backward pass

        x, ln_1(x), qkv 3, attention, x + attention, ln_2        8 R C
        c_fc, its activation                                     2 R I

    and with ``recompute`` only x. A step holds the most in one of two moments: at the loss, when all blocks have kept
    theirs, with the logits of a chunk, the head's gradient V C and the gradients of the last layer norm's input and
    output; or at the end of the backward pass, when all gradients are there and one block's activations still are.
    Batches that are accumulated meet the gradients of those before at the loss.

    The chunk's logits count twice: freed, they leave a hole in which smaller arrays settle, so that the next ones go
    elsewhere. And the kernels' code is loaded in the first step.
    """
    R, C, V = sequences * context, config.n_embd, config.vocab_size
    block = R * (8 * C + 2 * config.inner_size)
    kept = config.n_layer * (R * C if recompute else block) + (block if recompute else 0)
    gradients = parameters(config)
    head = 2 * min(R, ROWS) * V + V * C + 4 * R * C
    at_the_loss = kept + head + (gradients if accumulates else 0)
    at_the_end = gradients + block + R * (3 * C + config.inner_size)
    return FLOAT * max(at_the_loss, at_the_end) + KERNELS


def parameters(config: GPTConfig, embeddings: bool = True) -> int:
    """How many parameters a model has.

    >>> parameters(GPTConfig()), parameters(GPTConfig(), embeddings=False)
    (124439808, 85056000)
    """
    C, inner, bias = config.n_embd, config.inner_size, config.bias
    block = 4 * C * C + 2 * C * inner + 2 * C * (1 + bias)
    block += 3 * C * config.has_qkv_bias + (2 * C + inner) * bias
    tables = config.vocab_size * (1 if config.tie_weights else 2) + config.block_size * (config.position == "learned")
    return config.n_layer * block + C * (1 + bias) + (tables * C if embeddings else 0)


def resident_bytes() -> int:
    """The memory of this process now; 200 MB, what Python and imports take, where the system doesn't tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 200 << 20
    import resource

    return pages * resource.getpagesize()


def available_bytes() -> int:
    """The memory that processes can still take; more than there is where the system doesn't tell."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return sys.maxsize
