"""The live line at the bottom of a terminal: a bar, the losses, the speed and the time that is left."""

import sys

from tqdm import tqdm


class LiveLine:
    """One line, drawn again at most ten times a second. Where stderr is no terminal there is none.

    Lines of ``log`` appear above it.
    """

    def __init__(self):
        self.shown = sys.stderr.isatty()
        self._bar: tqdm | None = None
        self._validation = ""

    def show(self, step: int, steps: int, *words: str) -> None:
        """Move the bar to ``step`` of ``steps``; ``words`` follow it, the first one being the training loss."""
        if not self.shown:
            return
        first, *others = words
        line = "  ".join([first + self._validation, *others])
        if self._bar is None:
            self._bar = _Bar(
                desc=line, total=steps, initial=step, file=sys.stderr, dynamic_ncols=True, leave=False, position=0,
                bar_format="{n_fmt}/{total_fmt} {bar} {desc}",
            )  # fmt: skip
        self._bar.set_description_str(line, refresh=False)
        self._bar.update(step - self._bar.n)

    def evaluated(self, losses: dict[str, float]) -> None:
        """Show the validation loss, if there is one, from now on."""
        if "val" in losses:
            self._validation = f"  val {losses['val']:.4f}"

    def close(self) -> None:
        """Take the line away."""
        if self._bar is not None:
            self._bar.close()


class _Bar(tqdm):
    monitor_interval = 0  # no thread that redraws it
