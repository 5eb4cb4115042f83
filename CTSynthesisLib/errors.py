"""The two ways a request can fail; every message is one sentence that says what is wrong and what to do."""


class UnusableInput(ValueError):
    """What the user gave cannot be used (command line: exit code 2)."""


class SynthesisFailed(RuntimeError):
    """The input was fine, but the work could not be finished (command line: exit code 1)."""
