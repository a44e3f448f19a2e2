"""Every setting, read once from the environment. `settings` is the only instance."""

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent


def default_home() -> Path:
    """`/var/lib/danlu` for root, `~/.danlu` for everybody else."""
    return Path("/var/lib/danlu") if os.geteuid() == 0 else Path.home() / ".danlu"


def joined() -> Path:
    """What `danlu node join` left in the home: a JSON object of environment variables."""
    return Path(os.environ.get("DANLU_HOME") or default_home()).expanduser() / "node.json"


def read_joined() -> None:
    """Set what the file says and nobody has set; children find it in their environment."""
    try:
        values: dict[str, str] = json.loads(joined().read_text())
    except FileNotFoundError:
        return
    for name, value in values.items():
        os.environ.setdefault(name, value)


class Settings(BaseSettings):
    """What `DANLU_*`, `DATABASE_URL` and `REDIS_URL` say. See docs/settings.md."""

    model_config = SettingsConfigDict(env_prefix="DANLU_", env_ignore_empty=True, extra="ignore")

    home: Path = Field(default_factory=default_home)
    host: str = "127.0.0.1"
    port: int = 8420
    public_url: str = ""
    trusted_proxies: str = ""  # comma-separated addresses or networks whose X-Forwarded-* count

    secret_key: str = ""  # what seals secrets in the database; empty: the home's secret.key
    metrics_token: str = ""  # what Prometheus sends; empty: /metrics answers this machine alone

    database_url: str = Field("", validation_alias="DATABASE_URL")
    redis_url: str = Field("", validation_alias="REDIS_URL")
    store: str = ""  # a directory or s3://bucket/prefix
    s3_addressing: Literal["auto", "path", "virtual"] = "auto"  # path where an endpoint is set
    cache_gb: int = 200  # of what this machine keeps of a bucket

    upgrade_backup: bool = True  # of the database, before tables of an older version are changed

    max_upload_mb: int = 20480
    max_row_mb: int = 16
    max_model_gb: int = 1024  # of an imported model, all files
    benchmarks: Path | None = None  # benchmarks' files on this node; None: `benchmarks` at home
    model_directories: str = ""  # comma-separated: models below these may be imported

    fetch_allow: str = ""  # comma-separated hosts or networks, [:port], that are no public ones
    hf_endpoint: str = ""  # empty: the public hub
    modelscope_endpoint: str = ""

    node: str = "local"
    node_host: str = "127.0.0.1"  # where the gateway reaches engines on this node
    node_dead_after: int = 0  # seconds; 0 is never
    server: str = ""  # of a platform elsewhere that this node has joined: its address
    node_key: str = ""  # and what the node shows it
    join_database: str = ""  # host:port where nodes reach Postgres, if not as DATABASE_URL says
    join_redis: str = ""  # the same of Redis
    node_labels: str = ""  # key=value, comma-separated: what the node says of itself at its start
    cpu_devices: int = 2
    stranger_mb: int = 512  # of a GPU's memory, held by programs that are not ours; -1: never mind
    train_python: Path = ROOT / ".venv-train" / "bin" / "python"
    serve_python: Path = ROOT / ".venv-serve" / "bin" / "python"
    wake_seconds: int = 120  # how long a request waits for a deployment that it woke
    batch_concurrency: int = 16  # requests of batches open at a replica that nobody else asks
    engine: Literal["auto", "vllm", "transformers"] = "auto"

    @property
    def url(self) -> str:
        """The address users type: `public_url`, or the loopback one. No trailing slash."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def store_url(self) -> str:
        return self.store or str(self.home / "store")

    @property
    def runs(self) -> Path:
        """Run directories of jobs and replicas on this node."""
        return self.home / "runs"

    @property
    def benchmark_data(self) -> Path:
        """Where this node looks for the files of benchmarks."""
        return self.benchmarks or self.home / "benchmarks"

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def spool(self) -> Path:
        """Usage rows that the gateway has measured and Postgres has not yet seen."""
        return self.home / "spool"

    @property
    def uploads(self) -> Path:
        """Bytes of uploads in progress."""
        return self.home / "uploads"


read_joined()
settings = Settings()
