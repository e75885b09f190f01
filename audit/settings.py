"""The only reader of the environment.

Entry points call `read_settings()` once and pass values down. Every field is one environment variable; the README's
table of settings is generated from here (`python -m ops.settings_table`).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from audit.errors import UsageError
from audit.healing_settings import HealingSettings
from audit.telemetry_settings import TelemetrySettings
from audit.urls import is_redis_url, with_password, with_proof

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
DEMO_MODEL = Path(__file__).resolve().parent.parent / "demo" / "model"
OWN_NAMES = {"database_url": "DATABASE_URL", "redis_url": "REDIS_URL"}
"""Fields whose variable has no AUDIT_ before it."""
BROKER_OVERRIDES = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
SOCKET_PATH_LIMIT = 100
"""Bytes in a Unix socket's path: the kernel's limit is 108 with the closing NUL, and Redis adds a suffix at start."""


class Settings(HealingSettings, TelemetrySettings):
    """All that an operator can set. Names are AUDIT_ plus the field's name, but for DATABASE_URL and REDIS_URL."""

    model_config = SettingsConfigDict(env_prefix="AUDIT_", frozen=True, extra="ignore", populate_by_name=True)

    home: Path = Field(
        Path("var"), description="Folder that holds audit.db, redis/, models/ and logs/; relative to where you stand."
    )
    model: str = Field(
        "demo",
        description="Model to judge with: `demo`, a directory, or a fetched ModelScope id (id@revision pins it).",
    )
    database_url: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("DATABASE_URL", "database_url"),
        description="Ledger: sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME. Default: AUDIT_HOME/audit.db.",
    )
    redis_url: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("REDIS_URL", "redis_url"),
        description="Redis: redis://:PASSWORD@HOST:PORT/0 or unix:///PATH. Default: one of our own.",
    )
    database_password: SecretStr | None = Field(
        None, description="Password for a DATABASE_URL without one; as it is, where a URL would need %-escapes."
    )
    redis_password: SecretStr | None = Field(
        None, description="Password for a REDIS_URL without one; as it is, where a URL would need %-escapes."
    )
    engine: Literal["ofa", "stub"] = Field("ofa", description="`stub` answers without looking: for queue tests only.")
    devices: str = Field("auto", description="`auto`, `cpu`, or CUDA devices with commas: numbers, UUIDs, MIG names.")
    slots_per_device: int = Field(0, ge=0, le=16, description="Worker processes a device; 0: 1 on CPU, 2 on a GPU.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="`auto`: fp32 on CPU, bf16 on a GPU that computes in it."
    )
    micro_batch: int = Field(0, ge=0, le=1024, description="Pairs a forward pass; 0: 1 on CPU, measured on a GPU.")
    cpu_fallback: bool = Field(
        False,
        description="Judge on the CPU, a hundred times slower, what has no room on the GPU; loads the model twice.",
    )
    torch_threads: int = Field(0, ge=0, description="Threads a worker process; 0: the cores shared among the slots.")
    decode_threads: Count = Field(2, description="Threads a worker process that read and decode pictures.")
    cache: bool = Field(True, description="Reuse a judgement of the same picture, caption and model.")
    canary_limit_s: Positive = Field(300.0, description="Longest a worker process may take to load and prove a model.")

    chunk_pairs: Annotated[int, Field(ge=1, le=4096)] = Field(256, description="Pairs a chunk, the unit of queueing.")
    pair_limit_s: Positive = Field(
        15.0, description="Longest that one pair may take, picture and model together; twice over it, it has failed."
    )
    lease_s: Positive = Field(30.0, description="A claim without progress for so long is taken over by another.")
    resend_s: Positive = Field(20.0, description="A message that nobody claimed is sent again after so long, doubling.")
    feed_every_s: Positive = Field(1.0, description="How often a worker tops up Redis and sweeps dead claims.")
    tell_every_s: Positive = Field(5.0, description="How often a worker tells `caption-audit workers` how it is.")
    feed_chunks_per_slot: Count = Field(4, description="Chunks a slot and lane that may wait in Redis.")
    soft_limit_s: float = Field(0.0, ge=0, description="Celery's soft limit of a chunk; 0: chunk pairs x pair limit.")
    hard_limit_s: float = Field(0.0, ge=0, description="Celery's hard limit of a chunk; 0: the soft one + 30 s.")
    yield_s: float = Field(2.0, ge=0, description="Urgent work that waits so long makes a slot give way; 0: never.")
    max_tasks_per_child: Count = Field(200, description="Chunks after which a worker process is replaced.")
    recycle_rss_growth: int = Field(
        2 * 1024**3, ge=0, description="Bytes that a worker process may grow by before it is replaced; 0: any."
    )
    recycle_device_growth: int = Field(
        2 * 1024**3, ge=0, description="The same for what it holds of its device's memory."
    )
    shutdown_grace_s: Positive = Field(30.0, description="How long `up` waits for its worker to finish or release.")
    stop_grace_s: Positive = Field(
        25.0, description="Longest that a stopping worker waits for a pair in hand; then it gives the rest back."
    )
    start_wait_s: float = Field(
        60.0,
        ge=0,
        allow_inf_nan=False,
        description="Longest that a starting worker waits for the ledger and its schema.",
    )
    max_attempts: Count = Field(5, description="Deaths that blame no pair after which a chunk is parked.")

    max_image_bytes: Count = Field(20_000_000, description="Largest picture file.")
    max_image_pixels: Count = Field(20_000_000, description="Most pixels a picture may have, width times height.")
    max_side_ratio: Positive = Field(50.0, description="Most that one side of a picture may exceed the other.")
    decode_limit_s: Positive = Field(10.0, description="Longest that reading and decoding one picture may take.")
    max_caption_chars: Count = Field(4_000, description="Longest caption or premise, in characters.")
    max_line_bytes: Count = Field(1_000_000, description="Longest record of a manifest.")

    flower_user: Annotated[str, Field(pattern=r"^[!-9;-~]{1,64}$")] = Field(
        "audit", description="Who signs in to Flower; no colon."
    )
    flower_password: SecretStr | None = Field(
        None, description="Flower's password, 8 ASCII characters or more. Default: one in AUDIT_HOME/flower-password."
    )
    flower_address: str = Field("127.0.0.1", description="Address that Flower listens on.")
    flower_port: Annotated[int, Field(ge=1, le=65535)] = Field(5555, description="Port that Flower listens on.")
    flower_url_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9/_-]{0,100}$")] = Field(
        "", description="Path under which a proxy shows Flower."
    )
    flower_max_tasks: Annotated[int, Field(ge=1, le=100_000)] = Field(
        1_000, description="Chunks that Flower remembers, the newest."
    )

    stub_load_s: float = Field(0.0, ge=0, description="Stub engine: seconds that loading takes.")
    stub_call_s: float = Field(0.0, ge=0, description="Stub engine: seconds that a pass takes, besides its pairs'.")
    stub_device_pairs: int = Field(0, ge=0, description="Stub engine: pairs its device has memory for; 0: any number.")
    stub_sick_slot: int = Field(-1, ge=-1, description="Stub engine: slot that kills whoever judges there; -1: none.")
    stub_wrong_after_s: float = Field(
        0.0, ge=0, description="Stub engine: seconds from its load until it answers wrongly; 0: never."
    )
    stub_wrong_file: Path | None = Field(
        None, description="Stub engine: while this file is there, slots that it names (empty: all) answer wrongly."
    )
    stub_pair_s: float = Field(0.0, ge=0, description="Stub engine: seconds that a pair takes.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing but what read_settings() hands over: the environment is read in one place."""
        return (init_settings,)

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return Path(os.path.abspath(value.expanduser()))

    @field_validator("redis_url")
    @classmethod
    def _leads_to_redis(cls, value: SecretStr | None) -> SecretStr | None:
        # Celery would show what it takes for the port: a piece of a password with a / or a # in it.
        if value is not None and not is_redis_url(value.get_secret_value()):
            raise ValueError("must be redis://:PASSWORD@HOST:PORT/0 or unix:///PATH, the password with %-escapes")
        return value

    @model_validator(mode="after")
    def _limits_agree(self) -> "Settings":
        if self.lease_s <= self.pair_limit_s:
            raise ValueError("AUDIT_LEASE_S must be longer than AUDIT_PAIR_LIMIT_S: a lease is renewed pair by pair")
        if self.lease_s <= self.decode_limit_s and "decode_limit_s" in self.model_fields_set:
            raise ValueError("AUDIT_LEASE_S must be longer than AUDIT_DECODE_LIMIT_S")
        soft_s, hard_s = self.chunk_limits_s
        if soft_s >= hard_s:
            raise ValueError("AUDIT_HARD_LIMIT_S must be longer than AUDIT_SOFT_LIMIT_S")
        return self

    @model_validator(mode="after")
    def _passwords_have_a_place(self) -> "Settings":
        for name, url, password in (
            ("DATABASE", self.database_url, self.database_password),
            ("REDIS", self.redis_url, self.redis_password),
        ):
            if password is None:
                continue
            parts = urlsplit(url.get_secret_value() if url else "")
            if not parts.netloc:
                raise ValueError(f"AUDIT_{name}_PASSWORD is set, but {name}_URL names no server")
            if ":" in parts.netloc.rpartition("@")[0]:
                raise ValueError(f"AUDIT_{name}_PASSWORD is set, but {name}_URL holds a password already")
        return self

    @field_validator("flower_password")
    @classmethod
    def _can_be_typed(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value() if value else "long enough"
        if len(text) < 8 or not (text.isascii() and text.isprintable()):
            raise ValueError("must be 8 printable ASCII characters or more")
        return value

    @property
    def chunk_limits_s(self) -> tuple[float, float]:
        """Celery's soft and hard limit of one chunk, in seconds."""
        soft_s = self.soft_limit_s or self.chunk_pairs * self.pair_limit_s
        return soft_s, self.hard_limit_s or soft_s + 30.0

    @property
    def ledger_url(self) -> str:
        """SQLAlchemy URL of the ledger; it may hold a password: never log it."""
        if self.database_url is None:
            return f"sqlite:///{self.home}/audit.db"
        url = with_password(self.database_url, self.database_password)
        scheme, separator, rest = url.partition("://")
        return f"postgresql+psycopg://{rest}" if separator and scheme in ("postgres", "postgresql") else url

    @property
    def redis_socket(self) -> Path:
        """Where the Redis of our own listens; in a short path of /tmp when AUDIT_HOME is too deep for a socket."""
        path = self.home / "redis" / "redis.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
            return path
        from hashlib import sha256

        return Path(f"/tmp/caption-audit-{os.getuid()}-{sha256(os.fsencode(self.home)).hexdigest()[:12]}/redis.sock")  # noqa: S108 - the folder is made 0700 and its owner checked

    @property
    def broker_url(self) -> str:
        """Celery's broker URL; it may hold a password: never log it."""
        if self.redis_url:
            url = with_proof(with_password(self.redis_url, self.redis_password))
            # redis-cli and redis-py say unix://, Celery says redis+socket://.
            return f"redis+socket://{url.removeprefix('unix://')}" if url.startswith("unix://") else url
        return f"redis+socket://{quote(str(self.redis_socket))}"

    @property
    def model_name(self) -> str:
        """The name that batches and workers agree on: `demo`, a hub id, or a directory's absolute path."""
        if self.model == "demo" or not _looks_like_path(self.model):
            return self.model
        return os.path.realpath(os.path.expanduser(self.model))


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Parse the environment once; raises UsageError naming the variable it refuses."""
    environment = dict(os.environ if environ is None else environ)
    try:
        settings = _parse(environment)
    except ValidationError as error:
        first = error.errors()[0]
        name = _variable(str(first["loc"][0])) if first["loc"] else ""
        raise UsageError("bad_setting", f"{name}: {first['msg'].removeprefix('Value error, ')}".lstrip(": ")) from None
    _refuse_celery_overrides(environment, settings)
    return settings


def _looks_like_path(model: str) -> bool:
    return model.startswith(("/", ".", "~")) or os.path.isdir(model)


def _variable(field: str) -> str:
    return OWN_NAMES.get(field.lower()) or f"AUDIT_{field.upper()}"


def _parse(environment: Mapping[str, str]) -> Settings:
    fields: dict[str, str] = {}
    for name in Settings.model_fields:
        variable = _variable(name)
        if environment.get(variable, "") != "":
            fields[name] = environment[variable]
    return Settings.model_validate(fields)


def _refuse_celery_overrides(environment: Mapping[str, str], settings: Settings) -> None:
    # Celery reads these by itself and lets them win over the code's configuration, silently.
    for name in BROKER_OVERRIDES:
        broker = environment.get(name)
        if broker and broker != settings.broker_url:
            raise UsageError("bad_setting", f"{name} disagrees with REDIS_URL and would win: unset it")
    if environment.get("CELERY_RESULT_BACKEND"):
        raise UsageError("bad_setting", "CELERY_RESULT_BACKEND is set, but verdicts live in the ledger: unset it")
