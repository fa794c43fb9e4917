"""The process with the server, run as a program: `python -m finery_gguf.server.child`.

It reads what to run from stdin, a line of JSON, and ends when stdin closes. So the server ends with
the process that started it, however that ended. On stdout, it writes the server's process id and,
at the end, the status of a program, each a line.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

_GRACE = 5.0  # seconds to end before it is killed


def main() -> None:
    """Run the server until stdin closes or the server ends."""
    asked: dict[str, Any] = json.loads(sys.stdin.readline())
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # llama.cpp logs to both
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which closes stdin
    if program := asked.get("program"):
        _run(program, told)
    else:
        _serve(asked, told)


def _run(program: list[str], told: Any) -> None:
    """Run a program of the user's, as a child that doesn't outlive this process."""
    process = subprocess.Popen(program, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent())
    threading.Thread(target=_end_at_eof, args=[process], daemon=True).start()
    _tell(told, process.pid)
    _tell(told, process.wait())


def _end_at_eof(process: "subprocess.Popen[bytes]") -> None:
    sys.stdin.read()
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()


def _die_with_parent() -> Any:
    """What makes a child end with this process, if that is killed; None where Linux isn't."""
    if sys.platform != "linux":
        return None
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    death, end = 1, int(signal.SIGKILL)  # PR_SET_PDEATHSIG
    return lambda: prctl(death, end)


def _serve(asked: dict[str, Any], told: Any) -> None:
    """Serve with xllamacpp in this process."""
    threading.Thread(target=_exit_at_eof, daemon=True).start()
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = asked["model"]
    parameters.hostnames = [asked["host"]]
    parameters.port = asked["port"]
    parameters.n_parallel = asked["slots"]
    parameters.n_ctx = asked["context"]
    parameters.kv_unified = False
    parameters.use_jinja = True
    parameters.ui = False
    for cores in (parameters.cpuparams, parameters.cpuparams_batch):
        cores.n_threads = asked["threads"]
    if asked["flash_attention"] is False:
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if asked["alias"]:
        parameters.model_alias = {asked["alias"]}
    if key := os.environ.get("LLAMA_API_KEY"):
        parameters.api_keys = [key]
    if asked["origins"]:
        parameters.cors_origins, parameters.cors_origins_explicit = asked["origins"], True
    if not asked["gpu"]:
        parameters.n_gpu_layers = 0
    if asked["template"] is not None:
        parameters.chat_template = asked["template"]
    _set_sampling(parameters.sampling, asked["sampling"], xllamacpp.common_params_sampling_config)
    parameters.fit_params = False  # else it may give rows less room than they need
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError:  # its reason is in the log
        sys.exit(1)
    _tell(told, os.getpid())
    while server:  # until stdin closes
        time.sleep(3600)


def _set_sampling(parameters: Any, sampling: dict[str, float], given: Any) -> None:
    """Set how requests are answered that don't say. given: marks what metadata can't override."""
    if "temperature" in sampling:
        parameters.temp = sampling["temperature"]
        parameters.user_sampling_config |= given.COMMON_PARAMS_SAMPLING_CONFIG_TEMP.value
    if "repeat_penalty" in sampling:
        parameters.penalty_repeat = sampling["repeat_penalty"]
        parameters.user_sampling_config |= given.COMMON_PARAMS_SAMPLING_CONFIG_PENALTY_REPEAT.value


def _exit_at_eof() -> None:
    sys.stdin.read()
    os._exit(0)


def _tell(told: Any, number: int) -> None:
    told.write(f"{number}\n")
    told.flush()


if __name__ == "__main__":
    main()
