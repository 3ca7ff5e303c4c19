"""python -m npgpt.train TEXT... : train a GPT on text files."""

from pathlib import Path
from typing import Any

from npgpt.commandline import Parser, pathname, run, use_threads
from npgpt.errors import ConfigError
from npgpt.training.settings import RESUMABLE, TrainSettings

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
        help="resume this run, or the newest one in runs/",
    )
    parser.add_flags(TrainSettings)
    given = vars(parser.parse_args())
    texts, resumed = given.pop("texts"), given.pop("resume")
    if resumed is None:
        if not texts:
            parser.error("what should it train on? Name a text file, as in: python -m npgpt.train data/the-verdict.txt")
        _start(TrainSettings(texts=tuple(texts), **given))
    elif texts:
        hint = ", or name the run after --resume" if resumed is NEWEST else ""
        raise ConfigError(f"--resume takes the run's own text: leave out the text{hint}")
    else:
        _resume(resumed, given)
    return 0


def _start(settings: TrainSettings) -> None:
    _set_up(settings.threads, settings.matmul_precision)
    from npgpt.training.begin import start
    from npgpt.training.execute import execute
    from npgpt.training.folder import locked

    new = start(settings)
    with locked(new.folder):
        execute(new)


def _resume(name, given: dict[str, Any]) -> None:
    fixed = sorted(set(given) - set(RESUMABLE))
    if fixed:
        flags = ", ".join("--" + n.replace("_", "-") for n in fixed)
        raise ConfigError(f"a resumed run keeps these settings: leave out {flags}")
    given.setdefault("threads", None)  # a matter of this process, not of the run
    use_threads(given["threads"])
    from npgpt.checkpoints.runs import newest_run, read_run_config
    from npgpt.training.begin import resume
    from npgpt.training.execute import execute
    from npgpt.training.folder import locked

    folder = newest_run() if name is NEWEST else Path(name)
    read_run_config(folder)  # raises CheckpointError if it isn't a run
    with locked(folder):
        run = resume(folder, given)
        _set_up(None, run.settings.matmul_precision)
        execute(run)


def _set_up(threads, matmul_precision):
    use_threads(threads)
    from npgpt.kernels.precision import set_matmul_precision

    set_matmul_precision(matmul_precision)


if __name__ == "__main__":
    run(main)
