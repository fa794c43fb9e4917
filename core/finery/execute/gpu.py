"""A GPU, and the environment variables that choose GPUs."""

from typing import NamedTuple

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable with the GPUs that a process may use: indices or UUIDs."""
AMD_VISIBLE, AMD_FILTER = "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"
"""The same for AMD's GPUs. The first one counts those that the second one leaves."""
ORDER = "CUDA_DEVICE_ORDER"
CHOICES = (VISIBLE, ORDER, AMD_VISIBLE, AMD_FILTER)
"""The environment variables that decide which GPUs are visible."""
AMD_DRIVER = "/dev/kfd"
DRIVER_FILES = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg", AMD_DRIVER)
"""One of them exists where a driver is loaded; the third one in Windows' Linux."""


class Gpu(NamedTuple):
    """A GPU, or an instance of a GPU that is partitioned (MIG).

    id: for `variable`. name: empty if it is unknown which GPU the id means. capability: what its
    hardware can do, e.g. (8, 0), or AMD's version of its instructions. memory, used: bytes, 0 if it
    shares the machine's memory. uuid: empty if it is unknown. number: as `nvidia-smi`
    lists it, None if it is unknown. variable: the environment variable that selects it.
    """

    id: str
    name: str
    capability: tuple[int, int]
    memory: int
    used: int
    uuid: str = ""
    number: int | None = None
    variable: str = VISIBLE

    @property
    def is_amd(self) -> bool:
        """Whether it is a GPU of AMD, which torch uses through ROCm."""
        return self.variable == AMD_VISIBLE

    @property
    def label(self) -> str:
        """Its name in messages, e.g. `GPU 0 (NVIDIA L4)`."""
        name = f" ({self.name})" if self.name else ""
        return f"GPU {self.id if self.number is None else self.number}{name}"

    @property
    def free(self) -> int:
        """Bytes that no process uses."""
        return self.memory - self.used
