"""The commands that can be typed instead of a message."""

from npgpt.chatting.settings import changeable, changed
from npgpt.chatting.talk import Talk
from npgpt.errors import ConfigError

HELP = """\
/reset            forget all that was said
/save FILE.jsonl  write the conversation to a new file, which npgpt.train reads
/set              show the settings
/set NAME VALUE   change one, as in: /set temperature 0.7
/help             show this
/quit             leave, as Ctrl-D does
Ctrl-C stops an answer. A message that begins with / is typed after a space."""


def obey(line: str, talk: Talk) -> str | None:
    """Do what a line such as "/set temperature 0.7" says -> what to tell the user; None: the user wants to leave.

    Raises UserError if it can't be done.
    """
    command, _, rest = line.partition(" ")
    words = rest.split()
    if command == "/save" and words:
        talk.save(rest.strip())
        return f"saved in {rest.strip()}"
    if command == "/set" and len(words) == 2:
        talk.settings = changed(talk.settings, *words)
        return ""
    if words or command == "/save":
        raise ConfigError(f"{line[:60]!r} can't be understood: /help shows the commands")
    if command == "/reset":
        talk.reset()
        return "the conversation is empty again"
    if command == "/set":
        return _shown(talk)
    if command == "/help":
        return HELP
    if command == "/quit":
        return None
    raise ConfigError(f"there is no command {command[:60]!r}: /help shows them")


def _shown(talk):
    rows = [(name, getattr(talk.settings, field.name)) for name, field in changeable().items()]
    if talk.settings.greedy:
        rows[0] = ("temperature", "0 (greedy)")
    return "\n".join(f"{name:22}{'none' if value is None else value}" for name, value in rows)
