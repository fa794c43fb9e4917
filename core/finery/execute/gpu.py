"""A GPU, and the environment variables that choose GPUs."""

from typing import NamedTuple

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable with the GPUs that a process may use: indices or UUIDs."""
ORDER = "CUDA_DEVICE_ORDER"
CHOICES = (VISIBLE, ORDER, "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""The environment variables that decide which GPUs a process may use, those of ROCm too."""
DRIVER_FILES = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg")
"""One of them exists where a driver is loaded; the third one in Windows' Linux."""


class Gpu(NamedTuple):
    """A GPU. Instances of a partitioned one (MIG) aren't listed.

    id: for `CUDA_VISIBLE_DEVICES`. name: empty if it is unknown which GPU the id means. capability:
    what its hardware can do, e.g. (8, 0). memory, used: bytes, 0 if it shares the machine's memory.
    uuid: empty if it is unknown. number: as `nvidia-smi` lists it, None if it is unknown.
    """

    id: str
    name: str
    capability: tuple[int, int]
    memory: int
    used: int
    uuid: str = ""
    number: int | None = None

    @property
    def label(self) -> str:
        """Its name in messages, e.g. `GPU 0 (NVIDIA L4)`."""
        name = f" ({self.name})" if self.name else ""
        return f"GPU {self.id if self.number is None else self.number}{name}"

    @property
    def free(self) -> int:
        """Bytes that no process uses."""
        return self.memory - self.used
