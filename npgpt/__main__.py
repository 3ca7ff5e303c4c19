"""python -m npgpt : what there is to start."""

import sys

from npgpt.errors import ConfigError
from npgpt.process import run

COMMANDS = {
    "train TEXT...": "trains a model on texts",
    "prepare TEXT... --out FOLDER": "writes large texts as token files",
    "sample": "continues a text",
    "chat": "a conversation with a model",
    "serve": "a playground in the browser, and the OpenAI API",
    "evaluate FILE...": "perplexity and other scores",
    "convert SRC DST": "writes a model in another format",
    "info PATH": "what is in a checkpoint",
    "report RUN": "a run as a page",
    "explain": "one sentence through a model, as a page",
    "exercises": "functions of GPT-2 to write yourself",
    "gradcheck": "every gradient beside its slope",
}


def main() -> int:
    """Print the commands; -> the exit code. Raises ConfigError if a command is named: `npgpt train` for npgpt.train."""
    words = sys.argv[1:]
    if words not in ([], ["-h"], ["--help"]):
        commands = [command.split()[0] for command in COMMANDS]
        advice = f"python -m npgpt.{words[0]}" if words[0] in commands else "python -m npgpt lists the commands"
        raise ConfigError(f"a command is typed with a dot: {advice}")
    print("Each of these has --help:\n")
    for command, what in COMMANDS.items():
        print(f"  {f'python -m npgpt.{command}':48}{what}")
    return 0


if __name__ == "__main__":
    run(main)
