"""The backend `slackline` of `torch.distributed`, for CPU tensors."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store
from torch._C._distributed_c10d import Work as _TorchWork

from . import _native
from .errors import CollectiveError

__all__ = ["Options", "ProcessGroup"]

Tensor = torch.Tensor

_REDUCTIONS = {
    dist.ReduceOp.SUM: "sum",
    dist.ReduceOp.PRODUCT: "product",
    dist.ReduceOp.MIN: "min",
    dist.ReduceOp.MAX: "max",
    dist.ReduceOp.AVG: "avg",
    dist.ReduceOp.BAND: "band",
    dist.ReduceOp.BOR: "bor",
    dist.ReduceOp.BXOR: "bxor",
}


@dataclass(frozen=True)
class Options:
    """How the rings of a group are made: `dist.init_process_group("slackline", pg_options=slackline.Options(...))`.

    Attributes:
        slot_bytes: Payload of a slot. A larger message goes in several. By default up to 128 KiB, less in large groups.
        slots: Slots of a ring, that is from one rank to another; 8 by default. Up to `slots * slot_bytes` bytes go to a rank
            without any action of it.
    """

    slot_bytes: int | None = None
    slots: int | None = None


# Before 2.9, C++ callers of torch (functional collectives, DDP) hold the C++ part of a work alone, which without its Python part
# waits for ever. So it is kept until it was waited for.
_ORPHANS_WORK = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 9)
_kept: set[Work] = set()


class Work(_TorchWork):
    """An operation that may be under way. `wait` raises what went wrong."""

    def __init__(
        self,
        pending: _native.Pending | None,
        tensors: Sequence[Tensor],
        finish: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._pending = pending
        self._tensors = list(tensors)
        self._finish = finish
        self._lock = threading.Lock()
        self._source: int | None = None
        self._error: BaseException | None = None
        self._future: torch.futures.Future[list[Tensor]] | None = None
        if _ORPHANS_WORK:
            _kept.add(self)

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Waits until the operation has ended.

        Args:
            timeout: How long this call waits; by default as long as the operation may take.

        Raises:
            CollectiveError: The operation failed. See `slackline.errors`.
            TimeoutError: It has not ended within `timeout`; it goes on.
        """
        pending = self._pending
        if _ORPHANS_WORK:
            _kept.discard(self)
        if pending is not None:
            seconds = None if timeout is None or timeout <= timedelta(0) else timeout.total_seconds()
            try:
                self._source = pending.wait(seconds)
            except CollectiveError as error:
                self._error = error
                raise
        self._end()
        return True

    def _end(self) -> None:
        with self._lock:
            self._pending = None
            finish, self._finish = self._finish, None
            if finish is not None:
                finish()

    def is_completed(self) -> bool:
        return self._error is not None or self._pending is None or self._pending.done()

    def is_success(self) -> bool:
        return self.is_completed() and self.exception() is None

    def exception(self) -> BaseException | None:
        if self._error is None and self.is_completed():
            try:
                self.wait()
            except CollectiveError:
                pass
        return self._error

    def result(self) -> list[Tensor]:
        self.wait()
        return self._tensors

    def source_rank(self) -> int:
        return -1 if self._source is None else self._source

    _source_rank = source_rank

    def synchronize(self) -> None:
        self.wait()

    def get_future(self) -> torch.futures.Future[list[Tensor]]:
        """A future of the tensors; it raises what `wait` raises."""
        if self._future is None:
            self._future = torch.futures.Future()
            if self.is_completed():
                self._tell()
            else:
                _Waiter.of_process().put(self)
        return self._future

    def _tell(self) -> None:
        future = self._future
        assert future is not None
        try:
            self.wait()
        except Exception as error:
            future.set_exception(error)  # type: ignore[arg-type]
        else:
            future.set_result(self._tensors)


class _Waiter:
    """A thread that waits for operations of which somebody has a future."""

    _instance: _Waiter | None = None

    def __init__(self) -> None:
        self.process = os.getpid()
        self._queue: queue.SimpleQueue[Work] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="slackline futures", daemon=True).start()

    @classmethod
    def of_process(cls) -> _Waiter:
        if cls._instance is None or cls._instance.process != os.getpid():
            cls._instance = cls()
        return cls._instance

    def put(self, work: Work) -> None:
        self._queue.put(work)

    def _run(self) -> None:
        while True:
            self._queue.get()._tell()


def _dense(tensor: Tensor) -> Tensor:
    """The same numbers in contiguous memory of the process: the tensor itself where it is so."""
    if tensor.is_contiguous() and tensor.device.type == "cpu" and tensor.layout is torch.strided:
        return tensor
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        raise ValueError(
            f"the backend slackline moves dense CPU tensors, not {tensor.layout} on {tensor.device}: "
            "move the tensor with .cpu(), or take another backend for that device"
        )
    return tensor.contiguous()


class _Outputs:
    """Contiguous memory for tensors that are to be written, and what brings it into them."""

    def __init__(self) -> None:
        self._copies: list[tuple[Tensor, Tensor]] = []

    def of(self, tensor: Tensor) -> Tensor:
        dense = _dense(tensor)
        if dense is not tensor:
            self._copies.append((tensor, dense))
        return dense

    @property
    def finish(self) -> Callable[[], None] | None:
        return self._copy if self._copies else None

    def _copy(self) -> None:
        for tensor, dense in self._copies:
            tensor.copy_(dense)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _reduction(op: Any) -> str:
    # An `Options` has a `ReduceOp`, which equals its kind and does not hash as it.
    for kind, name in _REDUCTIONS.items():
        if op == kind:
            return name
    raise ValueError(f"the backend slackline does not reduce by {op}")


def _rows(tensor: Tensor, splits: Sequence[int], what: str, ranks: int) -> list[int]:
    """Bytes of each part of a tensor that is split by its first dimension."""
    rows = tensor.size(0) if tensor.dim() else 1
    if len(splits) != ranks or sum(splits) != rows or min(splits) < 0:
        raise ValueError(f"{what}_split_sizes {list(splits)} are not {ranks} parts of {rows} rows")
    width = tensor.nbytes // rows if rows else 0
    return [width * split for split in splits]


class ProcessGroup(dist.ProcessGroup):
    """The ranks of a group. Made by `dist.init_process_group("slackline")` and `dist.new_group`."""

    def __init__(self, group: _native.Group, rank: int, members: list[int], name: str, timeout: timedelta) -> None:
        super().__init__(rank, len(members))
        self._group = group
        self._rank = rank
        self._ranks = len(members)
        self._members = members
        self._name = name
        self._description = "undefined"
        self._seconds = timeout.total_seconds()
        _open.add(group)

    # What torch asks.

    @property
    def _device_types(self) -> list[torch.device]:
        # The flight recorder of torch attaches to C++ backends only, and leaves alone what names no device.
        if sys._getframe(1).f_code.co_name == "_maybe_attach_flight_recorder":
            return []
        return [torch.device("cpu")]

    def _get_backend(self, device: torch.device) -> ProcessGroup:
        """This group is its own backend."""
        return self

    supports_coalescing = False
    supports_splitting = False
    supports_shrinking = False
    supports_reconfigure = False
    supports_window = False
    supports_time_estimate = False

    def getBackendName(self) -> str:
        return "slackline"

    def name(self) -> str:
        return "slackline"

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._ranks

    def getRank(self) -> int:
        return self._rank

    def getSize(self) -> int:
        return self._ranks

    def setGroupName(self, name: str) -> None:
        self._name = name

    def getGroupName(self) -> str:
        return self._name

    def setGroupDesc(self, description: str) -> None:
        self._description = description

    def getGroupDesc(self) -> str:
        return self._description

    @property
    def group_name(self) -> str:
        return self._name

    @property
    def group_desc(self) -> str:
        return self._description

    def setTimeout(self, timeout: timedelta) -> None:
        self._seconds = timeout.total_seconds()

    _set_default_timeout = setTimeout

    def shutdown(self) -> None:
        """Leaves the group. Others that wait for this rank fail; it does not wait for them."""
        self._group.close()

    def abort(self) -> None:
        self.shutdown()

    def _timeout(self, opts: Any) -> float:
        timeout = getattr(opts, "timeout", None)
        if timeout is None:
            return self._seconds
        seconds = timeout.total_seconds()
        return seconds if seconds > 0 else self._seconds

    def _begun(self, pending: _native.Pending | None, tensors: Sequence[Tensor], outputs: _Outputs) -> Work:
        work = Work(pending, tensors, outputs.finish)
        if pending is None:
            work._end()
        return work

    # all_to_all

    def all_to_all_single(
        self,
        output: Tensor,
        input: Tensor,
        output_split_sizes: Sequence[int],
        input_split_sizes: Sequence[int],
        opts: Any = None,
    ) -> Work:
        outputs = _Outputs()
        into, source = outputs.of(output), _dense(input)
        timeout, later = self._timeout(opts), getattr(opts, "asyncOp", True)
        if output_split_sizes or input_split_sizes:
            ranks = self._ranks
            receives = _rows(into, output_split_sizes or _even(into, ranks, "output"), "output", ranks)
            sends = _rows(source, input_split_sizes or _even(source, ranks, "input"), "input", ranks)
            pending = self._group.all_to_all(into, source, receives, sends, timeout, later)
        else:
            _even(into, self._ranks, "output")
            _even(source, self._ranks, "input")
            pending = self._group.all_to_all_equal(into, source, timeout, later)
        return self._begun(pending, [output], outputs)

    # What torch before 2.14 calls it.
    alltoall_base = all_to_all_single

    def alltoall(self, output_tensors: list[Tensor], input_tensors: list[Tensor], opts: Any = None) -> Work:
        outputs = _Outputs()
        into, sources = [outputs.of(tensor) for tensor in output_tensors], [_dense(tensor) for tensor in input_tensors]
        later = getattr(opts, "asyncOp", True)
        pending = self._group.all_to_all_list(into, sources, self._timeout(opts), later)
        return self._begun(pending, output_tensors, outputs)

    # One to all, all to one, all to all alike.

    def broadcast(self, tensors: list[Tensor], opts: Any = None) -> Work:
        (tensor,) = tensors
        outputs = _Outputs()
        root = getattr(opts, "rootRank", 0)
        into = outputs.of(tensor)
        pending = self._group.broadcast(into, root, self._timeout(opts), getattr(opts, "asyncOp", True))
        return self._begun(pending, tensors, outputs)

    def allgather(self, output_tensors: list[list[Tensor]], input_tensors: list[Tensor], opts: Any = None) -> Work:
        outputs = _Outputs()
        into = [outputs.of(tensor) for tensor in output_tensors[0]]
        source = _dense(input_tensors[0])
        pending = self._group.all_gather(into, source, self._timeout(opts), getattr(opts, "asyncOp", True))
        return self._begun(pending, output_tensors[0], outputs)

    def all_gather_single(self, output: Tensor, input: Tensor, opts: Any = None) -> Work:
        outputs = _Outputs()
        into, later = outputs.of(output), getattr(opts, "asyncOp", True)
        pending = self._group.all_gather_single(into, _dense(input), self._timeout(opts), later)
        return self._begun(pending, [output], outputs)

    _allgather_base = all_gather_single

    def all_gather_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Work:
        works = [self.all_gather_single(output, input, opts) for output, input in zip(outputs, inputs, strict=True)]
        return _Several(works, outputs)

    allgather_into_tensor_coalesced = all_gather_single_coalesced

    def allgather_coalesced(
        self, output_lists: list[list[Tensor]], input_list: list[Tensor], opts: Any = None
    ) -> Work:
        """`output_lists[p][i]` becomes `input_list[i]` of rank `p`."""
        works = []
        for number, tensor in enumerate(input_list):
            works.append(self.allgather([[of_rank[number] for of_rank in output_lists]], [tensor], opts))
        return _Several(works, [tensor for of_rank in output_lists for tensor in of_rank])

    def gather(self, output_tensors: list[list[Tensor]], input_tensors: list[Tensor], opts: Any) -> Work:
        outputs = _Outputs()
        into = [outputs.of(tensor) for tensor in (output_tensors[0] if output_tensors else [])]
        source, later = _dense(input_tensors[0]), getattr(opts, "asyncOp", True)
        pending = self._group.gather(into, source, opts.rootRank, self._timeout(opts), later)
        return self._begun(pending, output_tensors[0] if output_tensors else [], outputs)

    def scatter(self, output_tensors: list[Tensor], input_tensors: list[list[Tensor]], opts: Any) -> Work:
        outputs = _Outputs()
        into, later = outputs.of(output_tensors[0]), getattr(opts, "asyncOp", True)
        sources = [_dense(tensor) for tensor in (input_tensors[0] if input_tensors else [])]
        pending = self._group.scatter(into, sources, opts.rootRank, self._timeout(opts), later)
        return self._begun(pending, output_tensors, outputs)

    # Reductions.

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> Work:
        (tensor,) = tensors
        outputs = _Outputs()
        reduction = _reduction(getattr(opts, "reduceOp", dist.ReduceOp.SUM))
        into, later = outputs.of(tensor), getattr(opts, "asyncOp", True)
        pending = self._group.all_reduce(into, _dtype(tensor), reduction, self._timeout(opts), later)
        return self._begun(pending, tensors, outputs)

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any = None) -> Work:
        return _Several([self.allreduce([tensor], opts) for tensor in tensors], tensors)

    def reduce(self, tensors: list[Tensor], opts: Any) -> Work:
        (tensor,) = tensors
        outputs = _Outputs()
        into, reduction, later = outputs.of(tensor), _reduction(opts.reduceOp), getattr(opts, "asyncOp", True)
        pending = self._group.reduce(into, _dtype(tensor), reduction, opts.rootRank, self._timeout(opts), later)
        return self._begun(pending, tensors, outputs)

    def reduce_scatter(self, output_tensors: list[Tensor], input_tensors: list[list[Tensor]], opts: Any) -> Work:
        outputs = _Outputs()
        (output,), (inputs,) = output_tensors, input_tensors
        into, sources = outputs.of(output), [_dense(tensor) for tensor in inputs]
        reduction, later = _reduction(opts.reduceOp), getattr(opts, "asyncOp", True)
        pending = self._group.reduce_scatter(into, sources, _dtype(output), reduction, self._timeout(opts), later)
        return self._begun(pending, output_tensors, outputs)

    def reduce_scatter_single(self, output: Tensor, input: Tensor, opts: Any = None) -> Work:
        outputs = _Outputs()
        into, source = outputs.of(output), _dense(input)
        reduction = _reduction(getattr(opts, "reduceOp", dist.ReduceOp.SUM))
        timeout, later = self._timeout(opts), getattr(opts, "asyncOp", True)
        pending = self._group.reduce_scatter_single(into, source, _dtype(output), reduction, timeout, later)
        return self._begun(pending, [output], outputs)

    _reduce_scatter_base = reduce_scatter_single

    def reduce_scatter_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Work:
        works = [self.reduce_scatter_single(output, input, opts) for output, input in zip(outputs, inputs, strict=True)]
        return _Several(works, outputs)

    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced

    # From one to another.

    def send(self, tensors: list[Tensor], dstRank: int, tag: int = 0) -> Work:
        (tensor,) = tensors
        return Work(self._group.send(_dense(tensor), dstRank, tag, self._seconds), tensors)

    def recv(self, tensors: list[Tensor], srcRank: int, tag: int = 0) -> Work:
        (tensor,) = tensors
        outputs = _Outputs()
        pending = self._group.receive(outputs.of(tensor), srcRank, tag, self._seconds)
        return Work(pending, tensors, outputs.finish)

    def recv_anysource(self, tensors: list[Tensor], tag: int = 0) -> Work:
        (tensor,) = tensors
        outputs = _Outputs()
        pending = self._group.receive(outputs.of(tensor), None, tag, self._seconds)
        return Work(pending, tensors, outputs.finish)

    # Barriers.

    def barrier(self, opts: Any = None) -> Work:
        pending = self._group.barrier(self._timeout(opts), getattr(opts, "asyncOp", True))
        return Work(pending, [])

    def monitored_barrier(self, timeout: timedelta | None = None, wait_all_ranks: bool = False) -> None:
        """A barrier whose error names every rank that did not come. (All of them, whatever `wait_all_ranks` says.)"""
        seconds = self._seconds if timeout is None or timeout <= timedelta(0) else timeout.total_seconds()
        self._group.barrier(seconds, False)


class _Several(Work):
    """Operations that count as one."""

    def __init__(self, works: list[Work], tensors: list[Tensor]) -> None:
        super().__init__(None, tensors)
        self._works = works

    def wait(self, timeout: timedelta | None = None) -> bool:
        for work in self._works:
            work.wait(timeout)
        return super().wait(timeout)

    def is_completed(self) -> bool:
        return all(work.is_completed() for work in self._works)

    def exception(self) -> BaseException | None:
        return next((error for work in self._works if (error := work.exception())), None)


def _even(tensor: Tensor, ranks: int, what: str) -> list[int]:
    rows = tensor.size(0) if tensor.dim() else 1
    if rows % ranks:
        raise ValueError(f"{what} has {rows} rows, which are not {ranks} equal parts: give {what}_split_sizes")
    return [rows // ranks] * ranks


_open: weakref.WeakSet[Any] = weakref.WeakSet()


@atexit.register
def _leave_all() -> None:
    """Before the interpreter ends: others see that this rank has left, and nothing writes into tensors any more."""
    for group in list(_open):
        group.close()


def _host() -> str:
    """What two processes have in common that can share memory: the machine since it booted, and the PID namespace."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def meet(
    store: Store,
    rank: int,
    members: list[int],
    name: str,
    timeout: timedelta,
    make: Callable[[], Any],
    terms: Sequence[Any],
) -> tuple[str, Any]:
    """Tells all ranks through the store where rank 0 has made shared memory.

    Returns:
        The address, and on rank 0 what `make` made, which has to live until all have attached.

    Raises:
        CollectiveError: The ranks are not on one host, or differ in `terms`.
    """
    segment = make() if rank == 0 else None
    if segment is not None:
        store.set("address", segment.address())
    store.set(f"host/{rank}", json.dumps([_host(), socket.gethostname(), list(terms)]))
    keys = [f"host/{peer}" for peer in range(len(members))] + ["address"]
    store.wait(keys, timeout)
    hosts = [json.loads(store.get(key)) for key in keys[:-1]]
    address, why = store.get("address").decode(), _refused(members, hosts)
    if why is None:
        return address, segment
    # The rank that has the store waits until all have read from it, before its process may end.
    store.set(f"refused/{rank}", "")
    if rank == 0:
        with contextlib.suppress(RuntimeError):
            store.wait([f"refused/{peer}" for peer in range(len(members))], timedelta(seconds=10))
    raise CollectiveError(f"group {name} {why}")


def _refused(members: list[int], hosts: list[tuple[str, str, list[Any]]]) -> str | None:
    """Why ranks with these hosts and terms cannot be a group."""
    if len({host for host, _, _ in hosts}) > 1:
        where: dict[str, list[int]] = {}
        for member, (_, hostname, _) in zip(members, hosts, strict=True):
            where.setdefault(hostname, []).append(member)
        places = ", ".join(f"ranks {ranks} on {hostname}" for hostname, ranks in where.items())
        return (
            f"spans hosts or PID namespaces ({places}): the backend slackline shares memory within one host. "
            "Start one process group for each host, or use gloo or MPI between hosts"
        )
    if any(terms != hosts[0][2] for _, _, terms in hosts):
        differing = ", ".join(f"rank {member} {terms}" for member, (_, _, terms) in zip(members, hosts, strict=True))
        return f"was made with different arguments: {differing}"
    return None


def _create(options: Any, pg_options: Options | None = None) -> ProcessGroup:
    rank, ranks, timeout = options.group_rank, options.group_size, options.timeout
    members = list(options.global_ranks_in_group) or list(range(ranks))
    name = str(options.group_id or "0")
    chosen = pg_options if isinstance(pg_options, Options) else Options()
    address, segment = meet(
        options.store,
        rank,
        members,
        name,
        timeout,
        lambda: _native.Segment(ranks, chosen.slot_bytes, chosen.slots),
        (chosen.slot_bytes, chosen.slots),
    )
    group = _native.Group.attach(address, rank, members, name, timeout.total_seconds())
    del segment
    return ProcessGroup(group, rank, members, name, timeout)


if dist.is_available() and "slackline" not in dist.Backend.backend_list:
    dist.Backend.register_backend("slackline", _create, extended_api=True, devices=["cpu"])
