"""Errors that a command reports without a traceback: their messages say what is wrong, where, and what to do.

A command that ends with one has exit code 2. NPGPT_TRACEBACK=1 shows the traceback as well.
"""


class UserError(Exception):
    """A mistake in what the user gave: a flag, a file, a text. The base of all the others."""


class ConfigError(UserError, ValueError):
    """A setting of the model or of a run that can't be."""


class DataError(UserError, ValueError):
    """A text or token file that can't be trained on."""


class TokenizerError(UserError, ValueError):
    """A text that a tokenizer can't encode, ids that it can't decode, or a tokenizer that there isn't."""


class CheckpointError(UserError, ValueError):
    """A file or folder of weights that can't be read, or that doesn't fit the model."""


class UnreadableError(CheckpointError):
    """A file that is there and that the system doesn't let us read: no permission, a faulty disk. It may be whole."""


class CheckpointWarning(UserWarning):
    """A damaged file of a run, and the earlier one that is taken instead."""


class RunError(UserError):
    """A run that can't begin, be resumed or be saved: its folder is taken, in use or full, or it is finished."""


class TrainingDiverged(UserError):
    """A loss, a gradient or a sample's logits that are not finite."""
