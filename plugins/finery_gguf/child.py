"""The server of the wheel xllamacpp as a program, with those options of llama-server in use here.

Run by its path, so that it imports nothing of finery.
"""

import argparse
import os
import sys
import time
from pathlib import Path


def main() -> None:
    """Serve until a signal ends this process."""
    import xllamacpp

    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("model", "host", "device", "alias", "chat-template-file", "lora"):
        parser.add_argument(f"--{name}")
    for name in ("port", "parallel", "ctx-size", "threads", "n-gpu-layers"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("temp", "repeat-penalty"):
        parser.add_argument(f"--{name}", type=float)
    parser.add_argument("--jinja", action="store_true")
    options = parser.parse_args()

    parameters = xllamacpp.CommonParams()
    parameters.model.path = options.model
    parameters.hostnames = [options.host]
    parameters.port = options.port
    parameters.n_parallel = options.parallel
    parameters.n_ctx = options.ctx_size
    parameters.kv_unified = False
    parameters.use_jinja = options.jinja
    parameters.ui = False
    parameters.fit_params = False  # it may give rows less room than they need
    for cores in (parameters.cpuparams, parameters.cpuparams_batch):
        cores.n_threads = options.threads
    if options.device == "none":
        parameters.n_gpu_layers = 0
    if options.lora:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = options.lora, 1.0
        parameters.lora_adapters = [adapter]
    if options.alias:
        parameters.model_alias = {options.alias}
    if options.chat_template_file:
        parameters.chat_template = Path(options.chat_template_file).read_text(encoding="utf-8")
    if key := os.environ.get("LLAMA_API_KEY"):
        parameters.api_keys = [key]
    if origins := os.environ.get("LLAMA_ARG_CORS_ORIGINS"):
        parameters.cors_origins, parameters.cors_origins_explicit = origins, True
    # The bits mark values that the file's metadata can't override.
    sampling, config = parameters.sampling, xllamacpp.common_params_sampling_config
    if options.temp is not None:
        sampling.temp = options.temp
        sampling.user_sampling_config |= config.COMMON_PARAMS_SAMPLING_CONFIG_TEMP.value
    if options.repeat_penalty is not None:
        sampling.penalty_repeat = options.repeat_penalty
        sampling.user_sampling_config |= config.COMMON_PARAMS_SAMPLING_CONFIG_PENALTY_REPEAT.value
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError:  # its reason is in the log
        sys.exit(1)
    while server:
        time.sleep(3600)


if __name__ == "__main__":
    main()
