"""python -m npgpt.train TEXT... : train a GPT on text files."""

from dataclasses import replace
from pathlib import Path

from npgpt.commandline import Parser, run, use_threads
from npgpt.errors import ConfigError
from npgpt.settings import CHANGEABLE, TrainSettings


def main() -> int:
    parser = Parser("train", "Train a GPT on text files, folders of .txt files, or nanoGPT's .bin files.")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="files or folders to train on")
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="RUN", help="go on with this run, or with the newest one in runs/"
    )
    parser.add_flags(TrainSettings)
    given = vars(parser.parse_args())
    texts, resume = given.pop("texts"), given.pop("resume")
    if resume is None:
        if not texts:
            parser.error("what should it train on? Name a text file, as in: python -m npgpt.train data/the-verdict.txt")
        return _start(TrainSettings(texts=tuple(texts), **given))
    if texts and not resume:
        raise ConfigError("--resume goes on with a run's own text: leave out the text, or name the run after --resume")
    if texts:
        raise ConfigError("--resume goes on with the run's own text: leave out the text")
    return _resume(resume, given)


def _start(settings: TrainSettings) -> int:
    use_threads(settings.threads)
    from npgpt.trainer import Trainer

    return Trainer.start(settings).run()


def _resume(name: str, given: dict) -> int:
    fixed = sorted(set(given) - set(CHANGEABLE))
    if fixed:
        flags = ", ".join("--" + n.replace("_", "-") for n in fixed)
        raise ConfigError(f"a run goes on with the settings it began with: leave out {flags}")
    from npgpt.checkpoints.runs import newest_run, read_run_config

    folder = Path(name) if name else newest_run()
    _, training = read_run_config(folder)
    settings = TrainSettings.from_dict(training)
    for one, other in (("max_steps", "epochs"), ("epochs", "max_steps")):
        if one in given and other not in given:
            given[other] = None
    settings = replace(settings, **given)
    use_threads(settings.threads)
    from npgpt.trainer import Trainer

    return Trainer.resume(folder, settings).run()


if __name__ == "__main__":
    run(main)
