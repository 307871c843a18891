"""Where the processes of one machine meet. No other machine reaches it: torch's own store listens on all addresses."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

from torch.distributed import PrefixStore, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

BACKEND = "loopback"
HOST = "127.0.0.1"
TIMEOUT = 600  # seconds, torch's default


class LoopbackRendezvous(StaticTCPRendezvous):
    """The rendezvous of one machine, which serves the store of its processes at HOST."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        listener = socket.create_server((HOST, 0))
        port = listener.getsockname()[1]
        super().__init__(HOST, port, rank=0, world_size=1, run_id=parameters.run_id, timeout=TIMEOUT)
        # the store listens at a socket of ours, since it would bind one of its own to every address
        self.store = TCPStore(HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())

    def get_backend(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        address = RendezvousStoreInfo(self.master_addr, self.master_port)
        return RendezvousInfo(PrefixStore(self.run_id, self.store), self.rank, self.world_size, address)


def meeting_point() -> dict[str, Any]:
    """What LaunchConfig has to know of it. Also lets gloo, which moves gradients between CPUs, listen there only."""
    rendezvous_handler_registry.register(BACKEND, LoopbackRendezvous)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    return {"rdzv_backend": BACKEND}
