"""Decides which environment variables each process of the service gets. It gets no variable that is not in its row.

| process  | what it is                                     | in addition to what every process gets                 |
|----------|------------------------------------------------|--------------------------------------------------------|
| broker   | the bundled Valkey                             |                                                        |
| api      | answers clients                                | settings, database, broker, store, its keys            |
| checker  | the worker that checks                         | settings, database, broker, store, its key, the hub    |
| trainer  | the worker that trains                         | the same, the engine's key, and what computes          |
| engine   | answers with models                            | settings of its own, its key, store, hub, what computes|
| check    | a child: reads untrusted data                  | the hub, what computes                                 |
| fetch    | a child: downloads a base before it is trained | the hub                                                |
| train    | a child: runs an untrusted model               | what computes                                          |
| template | a child: puts a named template on a tokenizer  | what computes                                          |
| render   | a child: renders an untrusted chat template    |                                                        |
| grammar  | a child: compiles a schema                     | what computes                                          |
| vllm     | the operator's vLLM, a child of the engine     | what computes, and vLLM's own                          |

"what computes" are the variables of compute libraries and devices. "store" are the keys of the store and what boto
reads, if there is a store. API, workers and engine get those of OpenTelemetry too. A guardian has the environment of
its command. The operator can pass more variables to every process with TUNESMITH_PASS_ENVIRONMENT.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from app.processes.secret_files import IN_A_FILE

VARIABLE = "TUNESMITH_PASS_ENVIRONMENT"


class Process(StrEnum):
    BROKER = "broker"
    API = "api"
    CHECKER = "checker"
    TRAINER = "trainer"
    ENGINE = "engine"
    CHECK = "check"
    FETCH = "fetch"
    TRAIN = "train"
    TEMPLATE = "template"
    RENDER = "render"
    GRAMMAR = "grammar"
    VLLM = "vllm"


@dataclass(frozen=True)
class Variables:
    """Full names and prefixes of variables. A prefix never matches a secret: secrets must be named in full."""

    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    def __or__(self, other: "Variables") -> "Variables":
        return Variables(self.names | other.names, self.prefixes + other.prefixes)

    def have(self, name: str) -> bool:
        return name in self.names or (name.startswith(self.prefixes) and not is_secret(name))


def named(*names: str) -> Variables:
    return Variables(frozenset(names))


def beginning(*prefixes: str) -> Variables:
    return Variables(prefixes=prefixes)


DATABASE, BROKER, ENGINE_KEY = "TUNESMITH_DATABASE_URL", "TUNESMITH_BROKER_URL", "TUNESMITH_ENGINE_KEY"
SECRET_KEY, VLLM_KEY = "TUNESMITH_SECRET_KEY", "VLLM_API_KEY"
HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
STORE_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
HUB_TOKEN = "HF_TOKEN"
# A job with a token of its own gets none of these.
TOKENS_OF_THE_OPERATOR = frozenset({*HUB_TOKENS, "HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH"})
OURS = "TUNESMITH_"
SECRETS = frozenset({DATABASE, BROKER, ENGINE_KEY, SECRET_KEY, VLLM_KEY, *HUB_TOKENS, *STORE_KEYS})
LOOKS_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?)(_FILE|_PATH)?$")

ALWAYS = named(
    *("PATH", "HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "VIRTUAL_ENV", "GLIBC_TUNABLES", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"),
    *("TUNESMITH_PLUGINS", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("HF_HOME", "HF_ENDPOINT", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_XET_CACHE", "HF_ASSETS_CACHE"),
) | beginning("LC_", "PYTHON", "MALLOC_", "COV_CORE_", "COVERAGE_")
# The variables of compute libraries, devices and compilers.
COMPUTING = named(
    *("CC", "CXX", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "GPU_DEVICE_ORDINAL"),
) | beginning(
    *("CUDA_", "NVIDIA_", "NCCL_", "HIP_", "HSA_", "ROCR_", "ROCM_", "ZE_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "TORCH", "PYTORCH_", "TRITON_", "XFORMERS_"),
    *("BNB_", "BITSANDBYTES_", "TOKENIZERS_", "TRANSFORMERS_", "SAFETENSORS_", "UNSLOTH_", "HF_HUB_", "HF_DATASETS_"),
)
# Only for processes that download something, because a proxy's URL may hold a password too.
HUB = named(
    *(*HUB_TOKENS, "HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
) | beginning("HF_HUB_", "HF_XET_")
# What boto reads to reach the store of files, and to find its keys or a role. `app.store` opens the store.
STORE = named(
    *STORE_KEYS,
    *(name + IN_A_FILE for name in STORE_KEYS),
    *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE", "AWS_PROFILE"),
    *("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_EC2_METADATA_DISABLED", "AWS_ROLE_ARN"),
    *("AWS_ROLE_SESSION_NAME", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_STS_REGIONAL_ENDPOINTS"),
    *("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
    *("AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
)
STORE_URL = f"{OURS}STORE_URL"
SETTINGS = beginning(OURS)
ENGINES_OWN = named(
    *(f"{OURS}HOME", f"{OURS}MODELS_DIR", f"{OURS}ENGINE_CACHE_BYTES", f"{OURS}ALLOWED_HOSTS", f"{OURS}TRUST_NETWORK"),
    *(f"{OURS}VLLM_URL", f"{OURS}VLLM_COMMAND", f"{OURS}LOG_FORMAT", VARIABLE),
    *(STORE_URL, f"{OURS}STORE_ENDPOINT", f"{OURS}STORE_ADDRESSING", f"{OURS}STORE_CACHE_BYTES"),
    *(ENGINE_KEY, ENGINE_KEY + IN_A_FILE, VLLM_KEY, VLLM_KEY + IN_A_FILE),
)

# Of OpenTelemetry: headers may hold a key of the receiver, so only processes that send traces get them.
TRACES = beginning("OTEL_")

ROWS: dict[Process, Variables] = {
    Process.BROKER: ALWAYS,
    Process.API: ALWAYS
    | SETTINGS
    | TRACES
    | named(DATABASE, BROKER, ENGINE_KEY, SECRET_KEY, "WEB_CONCURRENCY")
    | STORE,
    Process.CHECKER: ALWAYS | SETTINGS | TRACES | named(DATABASE, BROKER, SECRET_KEY) | HUB | COMPUTING | STORE,
    Process.TRAINER: ALWAYS
    | SETTINGS
    | TRACES
    | named(DATABASE, BROKER, ENGINE_KEY, SECRET_KEY)
    | HUB
    | COMPUTING
    | STORE,
    Process.ENGINE: ALWAYS | ENGINES_OWN | TRACES | HUB | COMPUTING | beginning("VLLM_", "RAY_") | STORE,
    Process.CHECK: ALWAYS | HUB | COMPUTING | named(VARIABLE),
    Process.FETCH: ALWAYS | HUB,
    Process.TRAIN: ALWAYS | COMPUTING,
    Process.TEMPLATE: ALWAYS | COMPUTING,
    Process.RENDER: ALWAYS,
    Process.GRAMMAR: ALWAYS | COMPUTING,
    Process.VLLM: ALWAYS | COMPUTING | beginning("VLLM_", "RAY_"),
}


def is_secret(name: str) -> bool:
    """Return whether a variable may hold a secret, judged by its name."""
    return name.removesuffix(IN_A_FILE) in SECRETS or LOOKS_SECRET.search(name) is not None


def own_secrets() -> list[str]:
    """Return the secrets in variables of this process that are no settings of the service.

    Those of the settings are `Settings.secret_values`.
    """
    secret = {name: value for name, value in os.environ.items() if is_secret(name)}
    return [
        value
        for name, value in secret.items()
        if not (name.startswith(OURS) or name.endswith((IN_A_FILE, "_PATH")))  # these hold a path
    ]


def environment_of(process: Process, environment: Mapping[str, str], passed: Iterable[str] = ()) -> dict[str, str]:
    """Return the part of an environment that a process gets. `passed` are names that the operator adds for all."""
    row, more = ROWS[process], frozenset(passed)
    useless = frozenset() if environment.get(STORE_URL) else STORE.names
    return {
        name: value for name, value in environment.items() if name in more or (row.have(name) and name not in useless)
    }


def for_child(process: Process) -> dict[str, str]:
    """Return the part of this process's environment that a child gets."""
    return environment_of(process, os.environ, read_names(os.environ.get(VARIABLE, "")))


def read_names(text: str) -> list[str]:
    """Return the names of TUNESMITH_PASS_ENVIRONMENT, which are separated by commas.

    Raises ValueError for a secret or a setting of this service, which only processes in the table above may get.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name.startswith(OURS) or name.removesuffix(IN_A_FILE) in SECRETS:
            raise ValueError(f"found {name}, expected variables that this service does not pass on by itself")
    return names
