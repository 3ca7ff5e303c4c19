"""python -m npgpt.train TEXT... : train a GPT on text files."""

import time
from pathlib import Path

from npgpt.commandline import Parser, as_flag, pathname
from npgpt.errors import ConfigError
from npgpt.machine_line import read_machine_line
from npgpt.process import run as run_command
from npgpt.process import use_threads
from npgpt.training.launch import OneProcess, Processes, launch
from npgpt.training.settings import RESUMABLE, TrainSettings

NEWEST = object()  # what --resume without a name means


def main() -> int:
    return launch(train, follow)


def follow(processes: Processes) -> None:
    """Compute for another process, which reads the flags and does all else."""
    from npgpt.training import parallel

    parallel.follow(processes)


def train(processes: OneProcess) -> int:
    """Read the flags, and train with these processes."""
    began = time.monotonic()
    parser = Parser("train", "Train a GPT on texts, conversations (.jsonl), folders of them, or token files (.bin).")
    parser.add_argument("texts", nargs="*", type=pathname, metavar="TEXT", help="files or folders to train on")
    parser.add_argument(
        "--resume", nargs="?", const=NEWEST, type=pathname, metavar="RUN",
        help="resume this run, or the newest one in runs/",
    )  # fmt: skip
    parser.add_flags(TrainSettings)
    if line := read_machine_line():
        parser.epilog = f"machine, when a run last began: {line}"
    given = vars(parser.parse_args())
    texts, resumed = given.pop("texts"), given.pop("resume")
    settings = TrainSettings(texts=tuple(texts), **given)
    if resumed is None:
        if not texts:
            parser.error("what should it train on? Name a text file, as in: python -m npgpt.train data/the-verdict.txt")
    elif texts:
        hint = ", or name the run after --resume" if resumed is NEWEST else ""
        raise ConfigError(f"--resume takes the run's own text: leave out the text{hint}")
    elif fixed := sorted(set(given) - set(RESUMABLE)):
        raise ConfigError(
            f"a resumed run keeps these settings: leave out {', '.join(map(as_flag, fixed))}.\n"
            "For other settings begin a new run: with TEXT --init-from RUN it starts from this one's model"
        )
    use_threads(processes.threads(settings.threads))

    from npgpt.checkpoints.run_states import newest_run
    from npgpt.training.begin import resume, start
    from npgpt.training.execute import execute
    from npgpt.training.parallel import team_of

    if resumed is None:
        processes.check_batch_size(settings.batch_size)
        opened = start(settings)
    else:
        folder = newest_run() if resumed is NEWEST else Path(resumed)
        opened = resume(folder, {"threads": None, **given})  # threads are a matter of this process
    with opened as run:
        return execute(run, began, team_of(processes))


if __name__ == "__main__":
    run_command(main)
