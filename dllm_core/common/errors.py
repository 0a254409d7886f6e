"""The errors that a user can mend; each message says what is wrong, where (file, line, parameter) and what to do."""


class DataError(ValueError):
    """A data file, a tokenizer or a data setting is absent or wrong."""


class RunError(ValueError):
    """A run or a checkpoint is absent or does not fit."""


class UsageError(ValueError):
    """A command line, a preset or a parameter cannot be right."""
