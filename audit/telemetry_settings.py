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

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe event logged.")

    @field_validator("http_address")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        # A name would have to be looked up, by the thread that forks wait for.
        try:
            return str(ip_address("127.0.0.1" if value == "localhost" else value))
        except ValueError:
            raise ValueError("must be an IP address: 127.0.0.1, 0.0.0.0 for every one of this host, ::1 ...") from None
