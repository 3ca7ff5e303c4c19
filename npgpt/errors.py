"""What can go wrong through input, and is reported without a traceback.

A command ends with exit code 2 and such an error's message, so a message says what is wrong, where, and what to do.
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
