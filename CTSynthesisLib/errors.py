"""The two ways a request can fail; every message is one sentence that says what is wrong and what to do. And what was assumed."""


class UnusableInput(ValueError):
    """What the user gave cannot be used (command line: exit code 2)."""


class SynthesisFailed(RuntimeError):
    """The input was fine, but the work could not be finished (command line: exit code 1)."""


class Assumption(UserWarning):
    """Something was assumed where no result carries a note, while training data are read; the command line shows it as a note."""
