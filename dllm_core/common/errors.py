"""The errors that a user can mend; each message says what is wrong, where (file, line, parameter) and what to do."""

from dllm_core.common.text import safe


class UserError(ValueError):
    """What all of them share: a message may quote a file, so it is made safe to show."""

    def __init__(self, message: str = ""):
        super().__init__(safe(str(message)))


class DataError(UserError):
    """A data file, a tokenizer or a data setting is absent or wrong."""


class RunError(UserError):
    """A run or a checkpoint is absent or does not fit."""


class UsageError(UserError):
    """A command line, a preset or a parameter cannot be right."""


NOT_FINITE = (  # what to do when a model predicts NaN
    "the weights or what they compute are not finite; take weights saved before (NAME_best.pt) or train again with a "
    "lower learning_rate"
)
