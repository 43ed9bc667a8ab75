"""A simulated NVIDIA host."""

from simulated_nvidia.fixtures import nvidia, nvidia_libraries

__all__ = ["nvidia", "nvidia_libraries"]
