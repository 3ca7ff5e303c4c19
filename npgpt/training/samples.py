"""Samples: what the model makes of a prompt while it is trained."""

from npgpt.errors import TrainingDiverged
from npgpt.generation import Sampling, stream
from npgpt.gpt import GPT
from npgpt.text.tokenizers import Tokenizer
from npgpt.training.plan import Periodic, Plan


class Samples(Periodic):
    """A text of ``tokens`` new tokens every ``plan.sample_every`` steps, drawn as npgpt.sample draws by default."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, plan: Plan, tokens: int):
        super().__init__(plan, plan.sample_every)
        self.model, self.tokenizer, self.tokens = model, tokenizer, tokens
        self.prompt = tokenizer.encode_prompt(plan.sample_prompt)

    def text(self, step: int) -> str:
        """The prompt and what follows, without an incomplete last character; the step is the seed.

        Raises TrainingDiverged if the model's logits are not finite.
        """
        decoder, text = self.tokenizer.decoder(), self.plan.sample_prompt
        try:
            for (id,) in stream(self.model, [self.prompt], self.tokens, Sampling(), seed=step):
                text += decoder.decode(int(id))
        except FloatingPointError:
            raise TrainingDiverged(f"after step {step}: a sample's logits are not finite") from None
        self.last_step = step
        return text
