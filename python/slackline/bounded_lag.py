"""The alltoallv of bounded lag: a rank may go on while the messages of its last rounds are under way."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import timedelta
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed import distributed_c10d

from . import _native
from .distributed import _dense, _even, _open, _rows, meet
from .errors import CollectiveError

__all__ = ["BoundedLag", "BoundedLagAllToAll", "bounded_lag"]

Tensor = torch.Tensor
Result = TypeVar("Result")

# How many exchanges were made on a group: all ranks make them in the same order.
_made: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

_SLOT_BYTES = 192 << 10


class BoundedLagAllToAll:
    """An alltoallv in rounds, of which the last `lag` may be incomplete while the next begins.

    Every rank submits as many rounds. A round returns exactly what the ranks sent for it, whatever the lag::

        exchange = slackline.BoundedLagAllToAll(lag=4)
        for batch in batches:
            exchange.submit(lookup(batch), output_split_sizes, input_split_sizes)
            for number, output in exchange.take():
                ...
        for number, output in exchange.drain():
            ...

    Args:
        group: The ranks, of any backend whose store they share; the default group if None. All of its ranks make the exchange, and
            if they make several, in the same order.
        lag: By how many rounds a rank may be ahead of the oldest incomplete one; 0 is an ordinary alltoallv.
        delivery: `elastic`: rounds are handed out as soon as they are complete. `fixed`: round `i` after round `i + lag` was
            submitted, for comparison.
        slot_bytes: A message (to one rank, in one round) that is shorter goes without any action of its receiver and is copied
            twice; a longer one goes in pieces and is copied twice more. The rings take up to `ranks * (2 lag + 2) * slot_bytes` bytes
            for each rank, as far as messages fill them.
        timeout: How long a rank is waited for; by default as long as operations of the group.

    Raises:
        CollectiveError: The ranks are not on one host.
        LateRankError: Not all ranks made the exchange in time.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        lag: int = 4,
        delivery: str = "elastic",
        *,
        slot_bytes: int = _SLOT_BYTES,
        timeout: timedelta | None = None,
    ) -> None:
        if lag < 0:
            raise ValueError(f"a lag of {lag}: it is at least 0")
        if delivery not in ("elastic", "fixed"):
            raise ValueError(f"unknown delivery {delivery!r}: use 'elastic' or 'fixed'")
        group = group if group is not None else distributed_c10d._get_default_group()
        count = _made.get(group, 0)
        _made[group] = count + 1
        ranks = group.size()
        members = dist.get_process_group_ranks(group)
        if timeout is None:
            seconds = getattr(group, "_seconds", None)
            timeout = distributed_c10d._get_default_timeout("gloo") if seconds is None else timedelta(seconds=seconds)
        name = f"{count} of group {distributed_c10d._get_process_group_name(group)}"
        store = PrefixStore(f"slackline/lag/{count}", distributed_c10d._get_process_group_store(group))
        rank = group.rank()
        address, segment = meet(
            store, rank, members, name, timeout, lambda: _native.lag_segment(ranks, lag, slot_bytes), (lag, delivery, slot_bytes)
        )
        self._lag = _native.Lag.attach(address, rank, members, name, lag, delivery, timeout.total_seconds())
        del segment
        _open.add(self._lag)
        self._ranks = ranks
        self._outputs: dict[int, Tensor] = {}
        self.lag = lag
        self.delivery = delivery

    def submit(
        self,
        input: Tensor,
        output_split_sizes: Sequence[int] | None = None,
        input_split_sizes: Sequence[int] | None = None,
    ) -> int:
        """Sends the messages of the next round. `input` may be changed as soon as this returns.

        It waits only if a round is due that `take` was not asked for, and for slots if messages are larger than a slot.

        Args:
            input: Rows for the ranks, in rank order, split by its first dimension; any dtype.
            output_split_sizes: Rows that come from each rank; equally many if None.
            input_split_sizes: Rows for each rank; equally many if None.

        Returns:
            The number of the round, from 0.

        Raises:
            CollectiveError: The exchange has failed; see `slackline.errors`.
            ValueError: The splits don't fit the input.
        """
        source = _dense(input)
        sends = _rows(source, input_split_sizes or _even(source, self._ranks, "input"), "input", self._ranks)
        if output_split_sizes:
            shape = (sum(output_split_sizes), *source.shape[1:])
        else:
            shape = tuple(source.shape)
        output = torch.empty(shape, dtype=source.dtype)
        receives = _rows(output, output_split_sizes or _even(output, self._ranks, "output"), "output", self._ranks)
        number = self._lag.submit(output, source, receives, sends)
        self._outputs[number] = output
        return number

    def take(self) -> Iterator[tuple[int, Tensor]]:
        """Complete rounds, in order: their numbers and what the ranks sent, in rank order.

        It waits only while the oldest round is due, that is if this rank has submitted `lag` rounds after it; and, briefly (a
        twentieth of an iteration), for the newest round.
        """
        return self._hand_out(self._lag.take)

    def flush(self) -> Iterator[tuple[int, Tensor]]:
        """The rounds that were submitted and not taken, waiting for each. More may be submitted afterwards."""
        return self._hand_out(self._lag.flush)

    def drain(self) -> Iterator[tuple[int, Tensor]]:
        """The rounds that were submitted and not taken, waiting for each. No more can be submitted."""
        self._lag.leave()
        yield from self._hand_out(self._lag.flush)
        self._lag.sent()

    def _hand_out(self, next_round: Callable[[], int | None]) -> Iterator[tuple[int, Tensor]]:
        while (number := next_round()) is not None:
            yield number, self._outputs.pop(number)

    def stats(self) -> dict[str, Any]:
        """What this rank did so far.

        Returns:
            `rounds` submitted and `taken`; `bytes_sent` and `bytes_received`; `seconds_blocked` at the bound;
            `seconds_lingered` for the newest round; `fragmented` messages; and `observed_lag`, how many rounds were submitted
            when this rank was so many rounds ahead of its slowest peer.
        """
        return self._lag.stats()

    def close(self) -> None:
        """Leaves. Ranks that wait for more rounds of this one fail."""
        self._lag.close()


Split = tuple[Tensor, Sequence[int] | None, Sequence[int] | None]


class BoundedLag(Generic[Result]):
    """A forward pass in two parts, of which the second may be some batches behind. See `bounded_lag`."""

    def __init__(
        self,
        forward: Callable[..., Generator[Tensor | Split, Tensor, Result]],
        lag: int = 4,
        group: dist.ProcessGroup | None = None,
        **options: Any,
    ) -> None:
        self.exchange = BoundedLagAllToAll(group, lag, **options)
        self._forward = forward
        self._waiting: dict[int, Generator[Tensor | Split, Tensor, Result]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Iterator[tuple[int, Result]]:
        """Begins the forward pass of a batch, and ends those whose exchange is complete.

        Returns:
            The numbers of batches, in order from 0, and what their forward passes returned. The batch begins before anything is
            asked of the iterator.
        """
        steps = self._forward(*args, **kwargs)
        to_send = next(steps)
        parts = to_send if isinstance(to_send, tuple) else (to_send, None, None)
        self._waiting[self.exchange.submit(*parts)] = steps
        return self._ended(self.exchange.take())

    def flush(self) -> Iterator[tuple[int, Result]]:
        """Ends all forward passes that have begun. More may begin afterwards."""
        return self._ended(self.exchange.flush())

    def drain(self) -> Iterator[tuple[int, Result]]:
        """Ends all forward passes that have begun. No more may begin."""
        return self._ended(self.exchange.drain())

    def stats(self) -> dict[str, Any]:
        """Those of the exchange."""
        return self.exchange.stats()

    def _ended(self, rounds: Iterator[tuple[int, Tensor]]) -> Iterator[tuple[int, Result]]:
        for number, output in rounds:
            steps = self._waiting.pop(number)
            try:
                steps.send(output)
            except StopIteration as end:
                yield number, end.value
            else:
                steps.close()
                raise CollectiveError("a forward pass with bounded lag yields once, at its exchange")


def bounded_lag(
    model: Callable[..., Generator[Tensor | Split, Tensor, Result]],
    lag: int = 4,
    group: dist.ProcessGroup | None = None,
    **options: Any,
) -> BoundedLag[Result]:
    """Gives a DLRM-style forward pass a bounded lag.

    `model` is a module or a function whose forward pass *yields* what it sends instead of calling `dist.all_to_all_single`, and is
    given what it receives::

        def forward(self, dense, indices, offsets):
            pooled = self.lookup(indices, offsets)
            received = yield pooled, output_split_sizes, input_split_sizes    # was: dist.all_to_all_single(received, pooled, ...)
            return self.top(self.interact(self.bottom(dense), received))

        lagged = slackline.bounded_lag(model, lag=4)
        for batch in batches:
            for number, prediction in lagged(*batch):
                ...
        for number, prediction in lagged.drain():
            ...

    What is computed before the `yield` is the batch's first part; the locals of the forward pass are kept until its exchange is
    complete. `group` and the options are those of `BoundedLagAllToAll`.
    """
    return BoundedLag(model, lag, group, **options)
