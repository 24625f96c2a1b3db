"""How processes find each other: the environment that torchrun sets (or a cluster), and a store of their own."""

import contextlib
import os
import socket
import time
from collections.abc import Generator

import torch
import torch.distributed as dist

from gpt.distributed.world import INIT_TIMEOUT, World
from gpt.errors import InputError, ProcessLost
from gpt.log import log
from gpt.memory import is_out_of_memory

STORE_PORT = "gpt/store-port"


@contextlib.contextmanager
def join_world(device: str, timeout: int) -> Generator[World]:
    """Join the world that torchrun has prepared in the environment, or make one of this process alone.

    Raises ProcessLost if another process dies, or does not answer for `timeout` seconds.
    """
    if "RANK" not in os.environ:
        yield World(device, timeout)
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    log.is_main = rank == 0
    size = int(os.environ["WORLD_SIZE"])
    neighbors = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    if device == "cuda":
        _take_gpu(local_rank, neighbors)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    world = None
    try:
        kept, _, _ = next(dist.rendezvous("env://", timeout=INIT_TIMEOUT))  # lives on: without torchrun it is rank 0's
        store = _fresh_store(kept, rank, size)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=INIT_TIMEOUT)
        sizes = [0] * size
        dist.all_gather_object(sizes, neighbors)
        nodes = round(sum(1 / ranks for ranks in sizes))  # each of n ranks counts for an n-th of its node
        world = World(device, timeout, rank, size, nodes, even=len(set(sizes)) == 1)
        yield world
        world.barrier()  # torch aborts a process whose gradients' connections close while another still sends
        dist.destroy_process_group()
    except RuntimeError as error:
        if is_out_of_memory(error) or not _is_of_communication(error):
            raise
        waited = timeout if world is not None and world.hurries else round(INIT_TIMEOUT.total_seconds())
        raise ProcessLost(
            f"process {rank} of {size} lost another one, which died or did not answer for {waited} s "
            f"({str(error).strip().splitlines()[0]}); what was saved is whole: go on with `resume`"
        ) from None


def _take_gpu(number: int, neighbors: int) -> None:
    there = torch.cuda.device_count()
    if number >= there:
        raise InputError(
            f"{neighbors} processes on a machine with {there} CUDA devices: each needs one of its own; start "
            f"{there} (torchrun --nproc-per-node), or compute with `device` cpu"
        )
    torch.cuda.set_device(number)


def _fresh_store(kept: dist.Store, rank: int, size: int) -> dist.Store:
    """Make the store in which processes find each other: rank 0's own, its address in the one that torchrun kept.

    torchrun's outlives its workers, and so do the addresses that they wrote there: after a restart, some would try to
    reach the dead (seen with torch 2.13: about every second restart failed).
    """
    host = os.environ["MASTER_ADDR"]
    if rank == 0:
        store = dist.TCPStore(host, 0, size, is_master=True, timeout=INIT_TIMEOUT, wait_for_workers=False)
        kept.set(STORE_PORT, str(store.port))
        return store
    deadline = time.monotonic() + INIT_TIMEOUT.total_seconds()
    while True:
        port = int(kept.get(STORE_PORT))
        try:
            socket.create_connection((host, port), timeout=5).close()  # torch would try for long, and loudly
            return dist.TCPStore(host, port, size, timeout=INIT_TIMEOUT)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)  # a port of the dead; rank 0 has not written its new one yet


def _is_of_communication(error: RuntimeError) -> bool:
    """Tell whether a peer was lost: torch has exceptions for it, and plain RuntimeErrors that name the backend."""
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL", "onnection"))
