"""The environment variables of worker processes."""

import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from finery.execute.executor import Task
from finery.plugin.manager import load_plugins
from finery.recipe.environments import SAME_VARIABLES

PASS_ENV = "FINERY_PASS_ENV"
"""The environment variable that names further variables for all steps, e.g. `SITE_ID, ACME_*`."""

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_INHERITED_NAMES = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "TMPDIR", "TMP", "TEMP",
    "TERM", "HOSTNAME", "NO_COLOR",
    "PYTHONPATH", "PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONUSERBASE", "PYTHONPLATLIBDIR",
    "PYTHONOPTIMIZE", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONFAULTHANDLER",
    "PYTHONUNBUFFERED", "PYTHONBREAKPOINT", "PYTHONTRACEMALLOC",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "CC", "CXX",
    "VIRTUAL_ENV", "PIP_CONFIG_FILE", "PIP_CACHE_DIR", "PIP_CERT", "PIP_FIND_LINKS",
    "PIP_NO_INDEX", "PIP_PROXY", "PIP_RETRIES", "PIP_TIMEOUT", "PIP_TRUSTED_HOST",
    "HF_TOKEN_PATH", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OLLAMA_HOST", "OLLAMA_MODELS",
    "SOURCE_DATE_EPOCH",
})  # fmt: skip
"""Variables that every step inherits, besides proxies and those with certain prefixes."""
_INHERITED_PREFIXES = (
    "XDG_", "CONDA_", "FINERY_", "COVERAGE_", "SLURM_", "MALLOC_",
    "CUDA_", "CUDNN_", "CUBLAS_", "NVIDIA_", "NCCL_", "GLOO_", "UCX_",
    "ROCR_", "ROCM_", "HIP_", "HSA_", "MIOPEN_", "GPU_", "ONEAPI_", "SYCL_", "ZE_",
    "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "VECLIB_", "NUMEXPR_",
    "TORCH_", "TORCHINDUCTOR_", "PYTORCH_", "TRITON_", "ACCELERATE_", "BNB_", "UNSLOTH_",
    "HF_", "TRANSFORMERS_", "TOKENIZERS_", "GGML_", "LLAMA_", "VLLM_",
    "WANDB_", "MLFLOW_", "TRACKIO_", "TENSORBOARD_",
)  # fmt: skip
_SECRET = re.compile(
    r"(^|_)(API)?(KEYS?|TOKENS?|SECRETS?|PASS(WORD|WD|PHRASE)?|PWD|PW|CREDS?|CREDENTIALS?|AUTH|JWT"
    r"|PATS?|PEM|DSN|COOKIES?)(_|\d|$)",
    re.IGNORECASE,
)
"""Names of variables that are secrets, whatever their prefix is."""
_USER_IN_URL = re.compile(r"(\w://)[^\s/@]*@")


def worker_environment(task: Task, *, alone: bool, here: bool = True) -> dict[str, str]:
    """The environment for a new process whose first step is `task`.

    Contains what every step inherits, and the variables that plugins add. A variable that the user
    set keeps the user's value. alone: whether no other step will run at the same time. here:
    whether it will run on this machine, whose load plugins may measure.
    """
    plugins = load_plugins(tuple(Path(path) for path in task.plugins), task.entry_points)
    added = plugins.worker_environment(task.use, alone=alone, here=here)
    return {
        name: os.environ.get(name, value) for name, value in added.items()
    } | inherited_variables()


def inherited_variables() -> dict[str, str]:
    """The variables of this process that every step inherits.

    These are the ones that programs need on this machine, and those that `FINERY_PASS_ENV` names.
    They contain no secrets, and no user names and passwords in URLs. Steps have those that change
    what Python and C libraries compute by default, and not those of the user.
    """
    user_names, secrets = _user_variables(os.environ), secrets_for_all(os.environ)
    return {
        name: value if name in user_names else _strip_url_user(name, value)
        for name, value in os.environ.items()
        if name in user_names or name in _INHERITED_NAMES or name.upper() in _PROXIES
        or (name.startswith(_INHERITED_PREFIXES) and not _SECRET.search(name))
        if name not in secrets
    } | SAME_VARIABLES  # fmt: skip


def secrets_for_all(environment: Mapping[str, str]) -> dict[str, str]:
    """The secrets among the variables that `FINERY_PASS_ENV` names.

    Each step gets them as if its `env:` named them, so that they are removed from what it reports.
    """
    return {
        name: value
        for name, value in _user_variables(environment).items()
        if _SECRET.search(name) or _strip_url_user(name, value) != value
    }


def _user_variables(environment: Mapping[str, str]) -> dict[str, str]:
    patterns = environment.get(PASS_ENV, "").replace(",", " ").split()
    return {
        name: value
        for name, value in environment.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def _strip_url_user(name: str, value: str) -> str:
    """The value without the user names and passwords of URLs."""
    if name.upper() in _PROXIES and "@" in value:
        scheme, separator, address = value.rpartition("://")
        return f"{scheme}{separator}{address.rpartition('@')[2]}"
    return _USER_IN_URL.sub(r"\1", value)
