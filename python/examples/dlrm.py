"""Distributed DLRM inference in PyTorch: gloo or slackline, with a bounded lag, while ranks are delayed.

    torchrun --nproc-per-node 2 python/examples/dlrm.py --backend slackline --lag 4 --delay turn:2
    torchrun --nproc-per-node 2 python/examples/dlrm.py --table

Tables are spread over the ranks, every rank reads the whole batch, looks up its tables, and answers its share of the samples. With
`--table`, all variants run in turns under all delays, and rank 0 prints throughput and latency, the share of the ideal (the time that the
slowest rank would take alone), and whether all predictions are equal.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Generator, Iterator

import torch
import torch.distributed as dist

import slackline

DENSE, DIM = 13, 16
DELAYS = ["none", "turn:2", "random:2", "rare:10"]


class Dlrm(torch.nn.Module):
    """One rank's tables, and the dense layers, which all ranks have."""

    def __init__(self, rows: list[int], rank: int, ranks: int) -> None:
        super().__init__()
        self.rank, self.ranks, self.count = rank, ranks, len(rows)
        self.held = [[table for table in range(len(rows)) if table % ranks == owner] for owner in range(ranks)]
        self.tables = torch.nn.ModuleDict()
        for table in self.held[rank]:
            torch.manual_seed(table)
            self.tables[str(table)] = torch.nn.EmbeddingBag(rows[table], DIM, mode="sum")
        torch.manual_seed(-1)
        width = DIM + (self.count + 1) * self.count // 2
        self.bottom = torch.nn.Sequential(torch.nn.Linear(DENSE, 64), torch.nn.ReLU(), torch.nn.Linear(64, DIM), torch.nn.ReLU())
        self.top = torch.nn.Sequential(torch.nn.Linear(width, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1), torch.nn.Sigmoid())
        self.register_buffer("pairs", torch.tril_indices(self.count + 1, self.count + 1, -1))

    def lookup(self, indices: list[torch.Tensor], offsets: torch.Tensor) -> torch.Tensor:
        """`[samples * tables held, DIM]`, those of the first rank's samples first."""
        pooled = [self.tables[str(table)](indices[table], offsets) for table in self.held[self.rank]]
        return torch.stack(pooled, 1).flatten(0, 1)

    def splits(self, samples: int) -> tuple[list[int], list[int]]:
        """Rows that come from each rank, and that go to each."""
        share = samples // self.ranks
        return [share * len(held) for held in self.held], [share * len(self.held[self.rank])] * self.ranks

    def answer(self, dense: torch.Tensor, received: torch.Tensor) -> torch.Tensor:
        share = dense.size(0) // self.ranks
        own = self.bottom(dense[self.rank * share :][:share])
        parts = [part.view(share, -1, DIM) for part in received.split(self.splits(dense.size(0))[0])]
        vectors = torch.cat([own.unsqueeze(1), *parts], 1)
        products = (vectors @ vectors.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        return self.top(torch.cat([own, products], 1)).flatten()

    def forward(
        self, dense: torch.Tensor, indices: list[torch.Tensor], offsets: torch.Tensor
    ) -> Generator[tuple[torch.Tensor, list[int], list[int]], torch.Tensor, torch.Tensor]:
        """For `slackline.bounded_lag`: what goes to the ranks is yielded."""
        receive, send = self.splits(dense.size(0))
        received = yield self.lookup(indices, offsets), receive, send
        return self.answer(dense, received)


class Requests:
    """Batches with Zipf-distributed lookups, and the delays of ranks: alike for all variants."""

    def __init__(self, rows: list[int], samples: int, batches: int, ranks: int) -> None:
        self.ranks = ranks
        generator = torch.Generator().manual_seed(1)

        def zipf(limit: int, count: int) -> torch.Tensor:
            uniform = torch.rand(count, generator=generator, dtype=torch.float64)
            return (limit**uniform - 1).long().clamp_(0, limit - 1)

        offsets = torch.arange(0, samples * 4, 4)
        self.batches = [
            (torch.rand(samples, DENSE, generator=generator), [zipf(limit, samples * 4) for limit in rows], offsets)
            for _ in range(batches)
        ]

    def delays(self, profile: str) -> list[list[float]]:
        """Seconds by batch and rank."""
        name, _, most = profile.partition(":")
        limit = float(most or 0) / 1000
        generator = torch.Generator().manual_seed(7)
        result = []
        for number in range(len(self.batches)):
            draws = torch.rand(self.ranks, generator=generator).tolist()
            late = int(torch.randint(self.ranks, (), generator=generator))
            if name == "turn":
                result.append([limit * draws[rank] if number % self.ranks == rank else 0.0 for rank in range(self.ranks)])
            elif name == "random":
                result.append([limit * draw for draw in draws])
            elif name == "rare":
                hit = torch.rand((), generator=generator).item() < 0.1
                result.append([limit if hit and rank == late else 0.0 for rank in range(self.ranks)])
            elif name == "none":
                result.append([0.0] * self.ranks)
            else:
                raise SystemExit(f"unknown delay {profile!r}: none, turn:MS, random:MS or rare:MS")
        return result


def synchronous(model: Dlrm, requests: Requests, delays: list[float], group: dist.ProcessGroup, times: list[float]) -> Iterator[torch.Tensor]:
    for (dense, indices, offsets), delay in zip(requests.batches, delays, strict=True):
        begun = time.perf_counter()
        if delay:
            time.sleep(delay)
        pooled = model.lookup(indices, offsets)
        receive, send = model.splits(dense.size(0))
        received = torch.empty(sum(receive), DIM)
        dist.all_to_all_single(received, pooled, receive, send, group=group)
        answer = model.answer(dense, received)
        times.append(time.perf_counter() - begun)
        yield answer


def lagged(model: Dlrm, requests: Requests, delays: list[float], lag: int, group: dist.ProcessGroup, times: list[float]) -> Iterator[torch.Tensor]:
    step = slackline.bounded_lag(model, lag=lag, group=group)
    begun: list[float] = []
    for batch, delay in zip(requests.batches, delays, strict=True):
        begun.append(time.perf_counter())
        if delay:
            time.sleep(delay)
        for number, answer in step(*batch):
            times.append(time.perf_counter() - begun[number])
            yield answer
    for number, answer in step.drain():
        times.append(time.perf_counter() - begun[number])
        yield answer
    step.exchange.close()


def alone(model: Dlrm, requests: Requests, delays: list[float]) -> float:
    """Seconds of this rank's own work and delays."""
    begun = time.perf_counter()
    for (dense, indices, offsets), delay in zip(requests.batches, delays, strict=True):
        if delay:
            time.sleep(delay)
        model.lookup(indices, offsets)
        model.answer(dense, torch.zeros(sum(model.splits(dense.size(0))[0]), DIM))
    return time.perf_counter() - begun


def largest(value: float) -> float:
    whole = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(whole, dist.ReduceOp.MAX)
    return whole.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["gloo", "slackline"], default="slackline")
    parser.add_argument("--lag", type=int, help="with slackline: a bounded lag; without it, plain all_to_all_single")
    parser.add_argument("--delay", default="none", help="none, turn:MS, random:MS or rare:MS")
    parser.add_argument("--batches", type=int, default=150)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--table", action="store_true", help="all variants in turns, under all delays")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    groups = {"gloo": dist.group.WORLD, "slackline": dist.new_group(backend="slackline")}
    rows = [100_000, 1_000, 50_000, 20, 10_000, 3_000, 200, 30_000]
    model, requests = Dlrm(rows, rank, ranks).eval(), Requests(rows, arguments.samples, arguments.batches, ranks)

    variants: list[tuple[str, int | None]] = [(arguments.backend, arguments.lag)]
    profiles = [arguments.delay]
    if arguments.table:
        variants = [("gloo", None), ("slackline", None), *(("slackline", lag) for lag in (0, 1, 2, 4, 8))]
        profiles = DELAYS
    with torch.inference_mode():
        for profile in profiles:
            delays = [of_batch[rank] for of_batch in requests.delays(profile)]
            walls: dict[tuple[str, int | None], list[float]] = {variant: [] for variant in variants}
            times: dict[tuple[str, int | None], list[float]] = {variant: [] for variant in variants}
            answers: dict[tuple[str, int | None], torch.Tensor] = {}
            ideals = []
            for _ in range(arguments.repeats):
                dist.barrier()
                ideals.append(largest(alone(model, requests, delays)))
                for backend, lag in variants:
                    dist.barrier()
                    of_run = times[backend, lag]
                    begun = time.perf_counter()
                    if lag is None:
                        got = list(synchronous(model, requests, delays, groups[backend], of_run))
                    else:
                        got = list(lagged(model, requests, delays, lag, groups[backend], of_run))
                    walls[backend, lag].append(largest(time.perf_counter() - begun))
                    answers[backend, lag] = torch.cat(got)
            first = answers[variants[0]]
            equal = largest(float(any(not torch.equal(first, other) for other in answers.values()))) == 0
            if rank == 0:
                ideal = statistics.median(ideals)
                print(f"\n{ranks} ranks, delay {profile}; predictions {'equal to the bit' if equal else 'DIFFER'}")
                print("| exchange | samples/s (least to most) | of the ideal | latency p50, p99 ms |\n|---|---|---|---|")
                for backend, lag in variants:
                    total = arguments.batches * arguments.samples
                    wall, rates = statistics.median(walls[backend, lag]), [total / it for it in walls[backend, lag]]
                    latency = sorted(times[backend, lag])
                    p50, p99 = (1000 * latency[int(share * (len(latency) - 1))] for share in (0.5, 0.99))
                    name = backend if lag is None else f"{backend}, lag {lag}"
                    spread = f"{total / wall:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
                    print(f"| {name} | {spread} | {100 * ideal / wall:.0f} % | {p50:.2f}, {p99:.2f} |", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
