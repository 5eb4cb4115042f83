"""The ways a request can end early; every message is one sentence that says what is wrong and what to do. And what was assumed."""

import signal


class UnusableInput(ValueError):
    """What the user gave cannot be used (command line: exit code 2)."""


class SynthesisFailed(RuntimeError):
    """The input was fine, but the work could not be finished (command line: exit code 1)."""


class Interrupted(KeyboardInterrupt):
    """The user broke off, by the signal ``number``; the message says what is kept (command line: exit code 128 + ``number``)."""

    def __init__(self, sentence: str, number: int = signal.SIGINT):
        super().__init__(sentence)
        self.number = int(number)


class Assumption(UserWarning):
    """Something was assumed where no result carries a note, while training data are read; the command line shows it as a note."""
