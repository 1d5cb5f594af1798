"""What Slackline raises.

Everything is an `Error`. Failures of a group carry who is to blame::

    Error
    +-- CollectiveError (also RuntimeError)      the group failed or could not be made
    |   +-- DeadRankError                        a rank died, or left, while others waited for it
    |   +-- LateRankError (also TimeoutError)    a rank did not come in time
    |   +-- MismatchError                        ranks disagree about sizes or about the operation
    +-- ModelError (also ValueError)             a model or an input is not what it has to be
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["CollectiveError", "DeadRankError", "Error", "LateRankError", "MismatchError", "ModelError"]


class Error(Exception):
    """Anything that Slackline raises on purpose."""


class CollectiveError(Error, RuntimeError):
    """A group has failed; every later operation on it fails as well.

    Attributes:
        ranks: The ranks to blame, by their numbers in the whole program; may be empty.
        round: The number of the operation on its group (or of the round), from 0; None if none was under way.
        bytes: The bytes that came, where sizes disagree.
        expected: The bytes that were expected, where sizes disagree.
    """

    def __init__(
        self,
        message: str,
        ranks: Sequence[int] = (),
        round: int | None = None,
        bytes: int | None = None,
        expected: int | None = None,
    ) -> None:
        super().__init__(message)
        self.ranks = list(ranks)
        self.round = round
        self.bytes = bytes
        self.expected = expected


class DeadRankError(CollectiveError):
    """A rank's process has ended, or it left the group, while others waited for it."""


class LateRankError(CollectiveError, TimeoutError):
    """A rank did not come within the timeout."""


class MismatchError(CollectiveError):
    """Ranks disagree about the sizes of a message, or call different operations."""


class ModelError(Error, ValueError):
    """A model directory, a checkpoint or an input is not what it has to be."""
