"""python -m npgpt.train TEXT... : train a GPT on text files."""

from dataclasses import replace
from pathlib import Path

from npgpt.commandline import Parser, pathname, run, use_threads
from npgpt.errors import ConfigError
from npgpt.training.settings import CHANGEABLE, TrainSettings

NEWEST = object()  # what --resume without a name means


def main() -> int:
    parser = Parser("train", "Train a GPT on text files, folders of .txt files, or nanoGPT's .bin files.")
    parser.add_argument("texts", nargs="*", type=pathname, metavar="TEXT", help="files or folders to train on")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=NEWEST,
        type=pathname,
        metavar="RUN",
        help="go on with this run, or with the newest one in runs/",
    )
    parser.add_flags(TrainSettings)
    given = vars(parser.parse_args())
    texts, resume = given.pop("texts"), given.pop("resume")
    if resume is None:
        if not texts:
            parser.error("what should it train on? Name a text file, as in: python -m npgpt.train data/the-verdict.txt")
        return _start(TrainSettings(texts=tuple(texts), **given))
    if texts and resume is NEWEST:
        raise ConfigError("--resume goes on with a run's own text: leave out the text, or name the run after --resume")
    if texts:
        raise ConfigError("--resume goes on with the run's own text: leave out the text")
    return _resume(resume, given)


def _start(settings: TrainSettings) -> int:
    use_threads(settings.threads)
    from npgpt.kernels.precision import set_matmul_precision
    from npgpt.training.trainer import Trainer

    set_matmul_precision(settings.matmul_precision)
    return Trainer.start(settings).run()


def _resume(name, given: dict) -> int:
    fixed = sorted(set(given) - set(CHANGEABLE))
    if fixed:
        flags = ", ".join("--" + n.replace("_", "-") for n in fixed)
        raise ConfigError(f"a run goes on with the settings it began with: leave out {flags}")
    use_threads(given.setdefault("threads", None))  # a matter of this process, not of the run
    from npgpt.checkpoints.runs import CONFIG_FILE, newest_run, read_run_config
    from npgpt.kernels.precision import set_matmul_precision
    from npgpt.training.trainer import Trainer

    folder = newest_run() if name is NEWEST else Path(name)
    _, training = read_run_config(folder)
    try:
        settings = TrainSettings.from_dict(training)
    except ConfigError as error:
        raise ConfigError(f"{folder / CONFIG_FILE}: training: {error}") from None
    for one, other in (("max_steps", "epochs"), ("epochs", "max_steps")):
        if one in given and other not in given:
            given[other] = None
    settings = replace(settings, **given)
    set_matmul_precision(settings.matmul_precision)
    return Trainer.resume(folder, settings).run()


if __name__ == "__main__":
    run(main)
