"""Settings of what is told of the work: logs, metrics, traces and health."""

from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings


class TelemetrySettings(BaseSettings):
    """A part of audit.settings.Settings, which alone reads the environment."""

    http_address: str = Field("127.0.0.1", description="Address of a worker's metrics and health pages.")
    http_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        9464, description="Port of a worker's metrics and health pages; 0: none."
    )

    canary_every_s: float = Field(
        30.0, ge=0, allow_inf_nan=False, description="How often a loaded model is asked a known question; 0: never."
    )
    canary_within_s: float = Field(
        120.0,
        gt=0,
        allow_inf_nan=False,
        description="How old a slot's last right answer may be before it counts as hung or sick.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe event logged.")
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="Of a log line: `auto` is text on a terminal, else JSON."
    )
    log_files: bool = Field(
        False, description="Whether `worker` writes AUDIT_HOME/logs too; `up` always keeps its worker's lines there."
    )
    log_file_bytes: Annotated[int, Field(ge=10_000)] = Field(
        10_000_000, description="A log file of so many bytes, or of another day, is rotated."
    )
    log_days: Annotated[int, Field(ge=1)] = Field(7, description="Days that a rotated log file is kept.")
    log_total_bytes: Annotated[int, Field(ge=100_000)] = Field(
        200_000_000, description="Bytes that all log files may take; the oldest go first."
    )
    slow_pair_s: float = Field(5.0, ge=0, description="A pair that takes longer is logged as slow; 0: none is.")

    @field_validator("http_address")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        # A name would have to be looked up, by the thread that forks wait for.
        try:
            return str(ip_address("127.0.0.1" if value == "localhost" else value))
        except ValueError:
            raise ValueError("must be an IP address: 127.0.0.1, 0.0.0.0 for every one of this host, ::1 ...") from None
