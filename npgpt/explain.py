"""python -m npgpt.explain : one sentence through a model, forward and backward, as a page.

Nothing heavy is imported before the flags are read.
"""

import sys
from pathlib import Path

from npgpt.commandline import Parser, pathname
from npgpt.errors import CheckpointError, ConfigError
from npgpt.html_page import check_page
from npgpt.model_flags import add_checkpoint_flag
from npgpt.process import run

SHIPPED = Path(__file__).with_name("teaching") / "model"
PROMPT = "We went in to say whether the beam was false."  # the small model has read such words, and not this sentence


def main() -> int:
    parser = Parser("explain", "Show all that a model computes for one sentence, forward and backward, as a page.")
    which = "a run, a folder or file with weights, or a name such as gpt2 (default: a small one that comes with npgpt)"
    parser.add_argument("--prompt", metavar="TEXT", default=PROMPT, help=f"the sentence (default: {PROMPT})")
    parser.add_argument("--model", metavar="PATH", type=pathname, help=which)
    add_checkpoint_flag(parser)
    slopes = "don't compare gradients with slopes: they take two runs of the model for each, minutes with GPT-2"
    parser.add_argument("--no-slopes", action="store_true", help=slopes)
    parser.add_argument(
        "--out", metavar="FILE", type=pathname, default="explain.html", help="the page (default: explain.html)"
    )
    given = parser.parse_args()
    if sys.flags.optimize > 1:
        raise ConfigError("python -OO removes the docstrings, which are what the page shows: start it without -OO")
    check_page(given.out)

    from tqdm import tqdm

    from npgpt.checkpoints import make_model, open_checkpoint
    from npgpt.checkpoints.shared.atomic import atomic_write
    from npgpt.teaching.explanation import encode_prompt, explain
    from npgpt.teaching.page import page

    checkpoint = open_checkpoint(given.model or SHIPPED, given.checkpoint)
    tokenizer = checkpoint.require_tokenizer()
    encode_prompt(given.prompt, tokenizer, checkpoint.config)  # before the weights are read
    model = make_model(checkpoint)
    name = given.model or "a small one that comes with npgpt and has read one short story"
    with tqdm(desc="slopes", unit="", disable=given.no_slopes or None, leave=False) as bar:

        def progress(done, all):
            bar.total = all
            bar.update(done - bar.n)

        try:
            data = explain(model, tokenizer, given.prompt, name, not given.no_slopes, progress)
        except FloatingPointError as error:
            raise CheckpointError(f"{name}: {error}") from None
    text = page(data).encode()
    with atomic_write(given.out) as file:
        file.write(text)
    print(f"{given.out}: open it in a browser ({len(text) / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    run(main)
