"""Networks of the LoRA family: their files, their algebra, and how they change a living model."""

from lib_ti.networks.attach import Attached, attach
from lib_ti.networks.files import Network, read_network

__all__ = ["Attached", "Network", "attach", "read_network"]
