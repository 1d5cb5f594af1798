"""What a synchronous `all_to_all_single` takes: gloo, slackline, and slackline's call below the Python of torch and of this package.

    torchrun --nproc-per-node 2 python/examples/all_to_all.py

The variants take turns, behind a barrier each; a turn is `--calls` calls (fewer of large messages), and its result the time of one. Rank 0
prints microseconds: the median of the turns, the least and the most. Which bytes came is compared with gloo's.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

import slackline
from slackline.distributed import ProcessGroup

SIZES = [64, 16 << 10, 64 << 10, 1 << 20]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=21)
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args()
    dist.init_process_group("slackline")
    gloo: Any = dist.new_group(backend="gloo")
    ours = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
    assert isinstance(ours, ProcessGroup)
    ranks, rank = dist.get_world_size(), dist.get_rank()
    if rank == 0:
        print(f"torch {torch.__version__}, slackline {slackline.__version__}, {ranks} ranks; microseconds a call: median (least to most)")
    for size in SIZES:
        source = torch.randint(0, 256, (ranks * size,), dtype=torch.uint8)
        output, wanted = torch.empty_like(source), torch.empty_like(source)

        def native(output: torch.Tensor = output, source: torch.Tensor = source) -> None:
            pending = ours._group.all_to_all_equal(output, source, 60.0, False)
            if pending is not None:
                pending.wait()

        variants: dict[str, Callable[[], object]] = {
            "gloo": functools.partial(dist.all_to_all_single, wanted, source, group=gloo),
            "slackline": functools.partial(dist.all_to_all_single, output, source),
            "native": native,
        }
        calls = max(1, options.calls * 4096 // max(4096, size))
        turns: dict[str, list[float]] = {name: [] for name in variants}
        for turn in range(options.turns + 1):
            for name, call in variants.items():
                output.zero_()
                dist.barrier()
                begun = time.perf_counter()
                for _ in range(calls):
                    call()
                # The first turn makes connections and touches pages.
                if turn > 0:
                    turns[name].append((time.perf_counter() - begun) / calls * 1e6)
                assert name == "gloo" or torch.equal(output, wanted), f"{name} at {size} bytes"
        if rank == 0:
            cells = [f"{name} {statistics.median(of):.1f} ({min(of):.1f} to {max(of):.1f})" for name, of in turns.items()]
            factor = statistics.median(turns["gloo"]) / statistics.median(turns["slackline"])
            print(f"{size:8} bytes to each rank: {', '.join(cells)}; gloo / slackline {factor:.1f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
