"""The errors that arra raises on purpose. Each carries the exit code of the command line."""

from __future__ import annotations


class ArraError(Exception):
    """Something went wrong that the message explains: what, where, what to do about it."""

    exit_code = 1


class InputError(ArraError):
    """An argument, file or row from outside is wrong; the message names it and the remedy."""

    exit_code = 2


class ProvenanceError(InputError):
    """A store, checkpoint or codec was made by something else than what it is used with."""

    exit_code = 3


class TrainingDiverged(ArraError):
    """A loss or gradient stopped being finite; the batch was kept for inspection."""

    exit_code = 4
