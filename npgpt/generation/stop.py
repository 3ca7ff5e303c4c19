"""End a text where a given string appears."""


class StopString:
    """Passes text on up to, and without, the first appearance of ``stop``.

    What could be the beginning of ``stop`` is held back until it is clear that it isn't, so a ``stop`` that is spread
    over several tokens is never printed in part. With ``stop`` None everything passes.

    >>> end = StopString("END")
    >>> end.push("the E"), end.push("NDs"), end.found
    ('the ', '', True)
    """

    def __init__(self, stop: str | None):
        self.stop = stop
        self.found = False
        self._held = ""

    def push(self, text: str) -> str:
        """Take the next piece of text -> what can be printed now. ``found`` says whether ``stop`` has appeared."""
        if self.stop is None:
            return text
        text = self._held + text
        place = text.find(self.stop)
        if place >= 0:
            self.found, self._held = True, ""
            return text[:place]
        keep = max((n for n in range(1, len(self.stop)) if text.endswith(self.stop[:n])), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The text that is still held back, when no more comes."""
        held, self._held = self._held, ""
        return held
