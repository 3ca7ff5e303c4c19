"""python -m npgpt.evaluate FILE... : a model's perplexity on texts, its scores on LAMBADA and HellaSwag."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from npgpt.commandline import Parser, choice, count, flag, number, pathname
from npgpt.config import MATMUL_PRECISIONS, WEIGHTS
from npgpt.errors import CheckpointError, ConfigError, DataError
from npgpt.model_flags import MODEL, WhichModel, open_model
from npgpt.process import MAX_THREADS, run, use_threads
from npgpt.scoring import TASKS
from npgpt.signals import StopRequest

DATA, WORK = "what is measured", "how it is computed"


@dataclass(frozen=True)
class EvaluateSettings(WhichModel):
    """What ``python -m npgpt.evaluate`` can be told."""

    files: tuple[str, ...] = ()

    weights: str = flag("f32", choice(*WEIGHTS), "format of that model's matrices, as in npgpt.sample", MODEL)
    against: str | None = flag(
        None, pathname, "another model with the same tokens: how far the first is from it, on texts", MODEL
    )

    task: str | None = flag(
        None, choice(*TASKS),
        "what the files are (default: by their first line; texts and conversations are for perplexity)", DATA,
    )  # fmt: skip
    context: int | None = flag(
        None, count(), "tokens that the model sees at once (default: the model's block_size)", DATA,
        aliases=("block_size",),
    )  # fmt: skip
    stride: int | None = flag(None, count(), "in texts: tokens from window to window (default: half the context)", DATA)
    end_of_text: bool = flag(
        True, bool, "begin a text with <|endoftext|>, so that its first token is predicted too", DATA
    )
    limit: int | None = flag(None, count(), "only the first N examples of a file, or windows of a text", DATA)
    json: str | None = flag(None, pathname, "write all figures and settings to a new file", DATA)

    batch_size: int = flag(8, count(), "windows or examples per batch", WORK)
    threads: int | None = flag(None, number("N", 1, MAX_THREADS, whole=True), "threads (default: one per core)", WORK)
    matmul_precision: str = flag(
        "highest", choice(*MATMUL_PRECISIONS), "of large matrix products; medium rounds their factors to bfloat16", WORK
    )

    def __post_init__(self):
        if self.stride is not None and self.context is not None and self.stride > self.context:
            raise ConfigError(
                f"--stride {self.stride:,} is beyond --context {self.context:,}: tokens would be left out"
            )
        if self.against is not None and self.task not in (None, "perplexity"):
            raise ConfigError("--against compares models on texts: leave out --task, or give --task perplexity")


def main() -> int:
    description = "Measure a model: perplexity on texts, and scores on files of LAMBADA and HellaSwag (.jsonl)."
    parser = Parser("evaluate", description)
    what = "texts, conversations (.jsonl), folders of them, token files (.bin), or benchmarks' .jsonl"
    parser.add_argument("files", nargs="+", type=pathname, metavar="FILE", help=what)
    parser.add_flags(EvaluateSettings)
    given = vars(parser.parse_args())
    settings = EvaluateSettings(files=tuple(given.pop("files")), **given)
    use_threads(settings.threads)

    from npgpt.checkpoints import check_can_write, make_model, open_checkpoint
    from npgpt.checkpoints.shared.atomic import write_json
    from npgpt.generation.packed_model import PackedGPT
    from npgpt.kernels.machine.memory import keep_freed_memory
    from npgpt.kernels.precision import set_matmul_precision
    from npgpt.precompile import compile_for_scoring
    from npgpt.scoring.report import heading, rows, shortened

    if settings.json is not None:
        check_can_write(settings.json)  # before the work, not after it
    set_matmul_precision(settings.matmul_precision)
    path, checkpoint = open_model(settings)
    names, checkpoints = [settings.adapter or settings.model or str(path)], [checkpoint]
    if settings.against is not None:
        names.append(settings.against)
        checkpoints.append(open_checkpoint(settings.against, settings.checkpoint))
    context, stride = _window(settings, names, checkpoints)
    tokenizer = _tokenizer(names, checkpoints)
    # All files are read and checked before the first one is measured.
    work = [_prepare(settings, file, tokenizer, context, stride) for file in settings.files]
    shapes = {shape for _, spans, _ in work for shape in spans.shapes(settings.batch_size)}
    for config, weights in {(checkpoints[0].config, settings.weights), *((c.config, "f32") for c in checkpoints[1:])}:
        compile_for_scoring(config, shapes, weights)
    models = [make_model(checkpoint) for checkpoint in checkpoints]
    if settings.weights != "f32":
        models[0] = PackedGPT(models[0], settings.weights)
    keep_freed_memory()
    results, rounded = [], "" if settings.weights == "f32" else f" in {settings.weights}"
    for result in _measure(settings, names, models, work):
        if not results:
            print(f"{shortened(names[0], 48)}{rounded}: context {context:,}, stride {stride:,}", heading(), sep="\n")
        print(*rows(result), sep="\n", flush=True)
        results.append(result.to_dict())
    if settings.json is not None:
        used = {"context": context, "stride": stride, "model": settings.model if settings.adapter else names[0]}
        values = {"model": names[0], "format": checkpoints[0].format, "settings": {**asdict(settings), **used}}
        write_json(settings.json, {**values, "results": results})
    return 0


def _window(settings, names, checkpoints) -> tuple[int, int]:
    """-> context and stride, in tokens"""
    largest = min(checkpoint.config.block_size for checkpoint in checkpoints)
    context = settings.context or largest
    for name, checkpoint in zip(names, checkpoints, strict=True):
        if context > checkpoint.config.block_size:
            raise ConfigError(f"--context {context:,} is beyond {name}'s {checkpoint.config.block_size:,}")
    return context, settings.stride or max(1, context // 2)


def _tokenizer(names, checkpoints):
    """The models' common tokenizer."""
    first, *others = (checkpoint.require_tokenizer() for checkpoint in checkpoints)
    sizes = [checkpoint.config.vocab_size for checkpoint in checkpoints]
    if any(other.to_dict() != first.to_dict() for other in others):
        raise ConfigError(f"{' and '.join(names)} have different tokens, so their distributions can't be compared")
    if len(set(sizes)) > 1:
        counts = " and ".join(f"{size:,}" for size in sizes)
        raise ConfigError(f"{' and '.join(names)} have {counts} ids: one is padded, so they can't be compared")
    return first


def _prepare(settings, file, tokenizer, context, stride) -> tuple[str, Any, Callable]:
    """Read a file -> its task, what is to be predicted, and what measures the models on it"""
    from npgpt.scoring.divergence import compare
    from npgpt.scoring.examples import find_task
    from npgpt.scoring.last_words import last_words, read_last_words
    from npgpt.scoring.multiple_choice import multiple_choice, read_questions
    from npgpt.scoring.perplexity import perplexity, token_sizes
    from npgpt.scoring.spans import sliding_windows
    from npgpt.text.corpus import read_corpus

    task = settings.task or find_task(file)
    if settings.against and task != "perplexity":
        raise ConfigError(f"{file}: --against compares models on texts, and this is for {task}")
    if task == "lambada":
        words = read_last_words(file, tokenizer, context, settings.limit)
        return task, words, partial(last_words, words=words)
    if task == "hellaswag":
        questions = read_questions(file, tokenizer, context, settings.limit)
        return task, questions.spans, partial(multiple_choice, questions=questions)
    corpus = read_corpus(file, tokenizer)
    if corpus.validation is not None:
        parts = " and ".join(map(str, corpus.stamps))
        raise DataError(f"{file} has two parts, {parts}: name the one to measure")
    ids = corpus.tokens, corpus.documents
    windows = sliding_windows(*ids, context, stride, tokenizer.end_of_text, settings.end_of_text).first(settings.limit)
    if not len(windows):
        raise DataError(f"{file}: there is no token in it that others precede")
    measure = compare if settings.against else perplexity
    return task, windows, partial(measure, windows=windows, token_bytes=token_sizes(tokenizer))


def _measure(settings, names, models, work):
    """Yield the Result of each file."""
    from npgpt.scoring.report import Result

    with StopRequest() as stop:
        for file, (task, spans, measure) in zip(settings.files, work, strict=True):
            with _progress(file, spans.count, stop) as advance:
                try:
                    figures = measure(*models, batch_size=settings.batch_size, progress=advance)
                except FloatingPointError as error:
                    raise CheckpointError(f"{' or '.join(names)}: {error}") from None
            pair = figures if settings.against else (figures,)
            yield Result(file, task, *pair, *names[1:])


@contextmanager
def _progress(file, total, stop):
    """A bar on stderr, if that is a terminal, and after one second -> the function that moves it"""
    from tqdm import tqdm

    from npgpt.scoring.report import shortened

    def advance(tokens):
        bar.update(tokens)
        stop.check()

    name = shortened(file, 20)
    with tqdm(total=total, desc=name, unit=" tokens", unit_scale=True, delay=1, disable=None, leave=False) as bar:
        yield advance


if __name__ == "__main__":
    run(main)
