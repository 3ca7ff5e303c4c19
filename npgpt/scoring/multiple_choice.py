"""Choice of the likeliest ending, as in HellaSwag (Zellers et al. 2019, "HellaSwag: Can a Machine Really Finish Your
Sentence?").

A line is an object with ``activity_label``, ``ctx_a`` and ``ctx_b`` (or ``ctx``, both in one), ``endings``, and
``label``, the number of the right ending, from 0. Its other fields are not read. The prompt is
"activity_label: ctx_a ctx_b", with ctx_b capitalised. The marks that WikiHow's pages left are removed from it and from
the endings. An ending's score is the sum of log p over the tokens of a space and the ending, after the prompt.

    acc         the part of examples whose right ending has the largest score
    acc_norm    the same, with scores divided by the ending's number of characters: the longer ones have a chance too

That is ``hellaswag`` of lm-evaluation-harness (EleutherAI/lm-evaluation-harness, lm_eval/tasks/hellaswag), which has
gpt2 (124M) at acc 0.2892 and acc_norm 0.3114 on the 10,042 examples of hellaswag_val.jsonl (rowanz/hellaswag).
Karpathy's llm.c (dev/data/hellaswag.py, where these numbers stand) gets 0.2859 and 0.2955: it takes ctx as it is,
without the label, and divides by the number of tokens.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from npgpt.gpt import GPT
from npgpt.scoring.examples import Example, read_examples
from npgpt.scoring.losses import Progress, ignore, score
from npgpt.scoring.spans import Spans
from npgpt.scoring.statistics import Estimate, mean
from npgpt.text.tokenizers import Tokenizer

MAX_ENDINGS = 100  # of one question, each of which is encoded with the prompt


@dataclass(frozen=True, eq=False)
class Questions:
    """Q questions with E endings in all.

    ==========  ============================================================================
    spans       (E,) prompts with their endings, which are to be predicted; question by question
    lengths     (E,) the endings' numbers of characters
    starts      (Q,) where each question's endings begin
    labels      (Q,) the number of the right ending, from 0
    ==========  ============================================================================
    """

    spans: Spans
    lengths: np.ndarray
    starts: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class MultipleChoice:
    """acc and acc_norm: see this file's beginning."""

    acc: Estimate
    acc_norm: Estimate
    examples: int


def read_questions(path: str | Path, tokenizer: Tokenizer, context: int, limit: int | None = None) -> Questions:
    """A file's questions, at most ``limit``. Raises DataError.

    context     tokens that the model sees at once; of a longer prompt, the last ones stay
    """
    pieces, lengths, starts, labels = [], [], [], []
    for example in read_examples(path, limit):
        prompt, endings = _prompt(example), list(map(without_marks, example.texts("endings")))
        if not 2 <= len(endings) <= MAX_ENDINGS:
            raise example.error(f"endings must be 2 to {MAX_ENDINGS}, not {len(endings):,}")
        starts.append(len(pieces))
        labels.append(_label(example, len(endings)))
        pieces += (example.encode(tokenizer, prompt, f" {ending}", context) for ending in endings)
        lengths += map(len, endings)
    return Questions(Spans.join(pieces), np.array(lengths), np.array(starts), np.array(labels))


def multiple_choice(
    model: GPT, questions: Questions, batch_size: int = 8, progress: Progress = ignore
) -> MultipleChoice:
    """Measure a model on the questions of ``read_questions``. Errors are those of ``score``."""
    scores = np.zeros(len(questions.spans))
    for span, losses, _ in score(model, questions.spans, batch_size, progress):
        scores[span] = -losses.sum()
    empty = questions.lengths == 0  # after the marks were removed; never chosen by acc_norm
    normed = np.where(empty, -np.inf, scores / np.where(empty, 1, questions.lengths))
    acc, acc_norm = (mean([*_is_right(questions, of)]) for of in (scores, normed))
    return MultipleChoice(acc, acc_norm, len(questions.labels))


def _is_right(questions: Questions, scores: np.ndarray) -> Iterator[bool]:
    """Of each question, whether the right ending has the largest score; of equal ones, the first counts."""
    for of_one, label in zip(np.split(scores, questions.starts[1:]), questions.labels.tolist(), strict=True):
        yield bool(of_one.argmax() == label)


def without_marks(text: str) -> str:
    """A text without what WikiHow's pages left in it: [header], [title], [step] ...

    >>> without_marks(" Tie it [title] Pull the ends [substeps] gently.")
    'Tie it. Pull the ends gently.'
    """
    text = text.strip().replace(" [title]", ". ")
    # In one pass, however many brackets nobody closes: from one of these on, a line stays as it is.
    text = re.sub(r"\[[^\]\n]*(\]?)", lambda match: "" if match[1] else match[0], text)
    return text.replace("  ", " ")


def _prompt(example: Example) -> str:
    if "ctx_a" in example.values:
        context = f"{example.text('ctx_a')} {example.text('ctx_b').capitalize()}"
    else:
        context = example.text("ctx")
    return without_marks(f"{example.text('activity_label')}: {context}")


def _label(example: Example, choices: int) -> int:
    """The label, a number or, as on the Hugging Face hub, a numeral; test sets have none."""
    label = example.values.get("label")
    if isinstance(label, str) and label.isascii() and label.isdecimal() and len(label) < 10:
        label = int(label)
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < choices:
        shown = "is missing" if label is None else f"can't be {str(label)[:40]!r}"
        raise example.error(f"label {shown}: it must be the number of one of the {choices} endings, from 0")
    return label
