"""Token: what generating yields, one at a time."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Token:
    """One new id of one text.

    row         which text: its number among those that are made together, from 0
    id          the token's
    logprob     log p(id | all before it), the model's own p, whatever it was chosen with; None unless asked for
    likeliest   (id, logprob) of the likeliest ids in its place, the likeliest first; as many as asked for
    ended       None, or why the text ends with this token: "stop" (a stop id, ``stop_if`` said so, or the constraint is
                finished), "length" (max_new_tokens), "time" (max_seconds)
    """

    row: int
    id: int
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()
    ended: str | None = None
