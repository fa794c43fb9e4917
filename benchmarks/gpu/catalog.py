"""All checks, the most valuable first, since those at the end are the first to lack time."""

from gpu.check import Check

CHECKS = (
    Check("versions", "machine:versions", 60),
    Check("triton", "machine:triton", 60, ("triton",), gpus=1),
    Check("model", "machine:models", 150),
    Check("sft", "trainings:sft", 90),
    Check("sft-liger", "trainings:liger", 90, ("liger_kernel",), gpus=1),
    Check("sft-flash", "trainings:flash", 90, ("flash_attn",), gpus=1),
    Check("sft-checkpointing", "trainings:checkpointing", 90),
    Check("nf4", "trainings:nf4", 100, ("bitsandbytes",)),
    Check("fp4", "trainings:fp4", 100, ("bitsandbytes",)),
    Check("merge", "trainings:merge", 120, ("bitsandbytes",)),
    Check("dpo", "trainings:dpo", 60),
    Check("kto", "trainings:kto", 60),
    Check("watch", "trainings:watch", 60),
    Check("dora", "trainings:dora", 60),
    Check("full", "trainings:full", 100),
    Check("same-bytes", "repeating:same_bytes", 100),
    Check("resume", "repeating:resume", 100),
    Check("answers", "answering:answers", 90),
    Check("no-memory-loading", "exhausting:loading", 60, gpus=1),
    Check("no-memory-training", "exhausting:training", 60, gpus=1),
    Check("no-memory-answering", "exhausting:answering", 60, gpus=1),
    Check("two-processes", "sharing:processes", 90),
    Check("two-trainings", "sharing:trainings", 90, gpus=1),
    Check("stock-trl", "stock:sft", 90),
)
BY_NAME = {check.name: check for check in CHECKS}
