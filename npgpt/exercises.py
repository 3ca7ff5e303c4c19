"""python -m npgpt.exercises : write pieces of GPT-2 yourself, and be told what is wrong."""

from pathlib import Path

from npgpt.commandline import Parser, pathname
from npgpt.errors import ConfigError
from npgpt.process import run


def main() -> int:
    parser = Parser("exercises", "List the exercises, begin one, or have one graded.")
    what = "start: write NAME.py with the task; check: grade it (default: list the exercises)"
    parser.add_argument("action", nargs="?", choices=["list", "start", "check"], default="list", help=what)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the exercise")
    where = "the folder of your files (default: exercises)"
    parser.add_argument("--dir", type=pathname, default="exercises", metavar="PATH", help=where)
    given = parser.parse_args()
    if given.action != "list" and given.name is None:
        parser.error(f"which one? python -m npgpt.exercises {given.action} NAME")
    if given.action == "list" and given.name is not None:
        parser.error(f"list takes no name; python -m npgpt.exercises start {given.name} begins that one")

    from npgpt.teaching.exercises import learner

    folder = Path(given.dir)
    if given.action == "list":
        return _list(folder)
    exercise = _find(given.name)
    if given.action == "start":
        path = learner.start(exercise, folder)
        print(f"{path} has the task, and the function {exercise.function_name} to write.")
        print(f"When you have written it: {learner.command('check', exercise.name, folder)}")
        return 0
    solved, answer = learner.check(exercise, folder)
    print(answer, end="")
    return 0 if solved else 1


def _find(name):
    from difflib import get_close_matches

    from npgpt.teaching.exercises import EXERCISES

    plain = Path(name).name.removesuffix(".py").replace("-", "_")
    if plain not in EXERCISES:
        named = [exercise.name for exercise in EXERCISES.values() if exercise.function_name == plain]
        close = named or get_close_matches(plain, EXERCISES, n=1)
        meant = f"Did you mean {close[0]}? " if close else ""
        raise ConfigError(f"there is no exercise {name[:60]!r}. {meant}python -m npgpt.exercises lists them")
    return EXERCISES[plain]


def _list(folder) -> int:
    from npgpt.teaching.exercises import EXERCISES, learner

    states = learner.states(folder)
    width = max(map(len, EXERCISES))
    for name, exercise in EXERCISES.items():
        print(f"{states[name]:8} {name:{width}}  {exercise.title.rstrip('.')}")
    solved = sum(state == "solved" for state in states.values())
    print(f"{solved} of {len(EXERCISES)} are solved.", end=" ")
    following = next((name for name, state in states.items() if state != "solved"), None)
    if following:
        print(f"The next one: {learner.command('check' if states[following] else 'start', following, folder)}")
    else:
        print("That is all of GPT-2.")
    return 0


if __name__ == "__main__":
    run(main)
