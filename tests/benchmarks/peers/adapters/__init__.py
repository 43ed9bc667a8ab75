"""The peers by name, in the order of the table."""

from collections.abc import Mapping
from typing import Final

from benchmarks.peers.adapters.bentoml import BentoML
from benchmarks.peers.adapters.cog import Cog
from benchmarks.peers.adapters.kserve import KServe
from benchmarks.peers.adapters.litserve import LitServe
from benchmarks.peers.adapters.mlserver import MLServer
from benchmarks.peers.adapters.mosec import Mosec
from benchmarks.peers.peer import Peer

PEERS: Final[Mapping[str, type[Peer]]] = {peer.name: peer for peer in (Mosec, KServe, MLServer, LitServe, Cog, BentoML)}
