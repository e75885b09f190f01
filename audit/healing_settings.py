"""Settings of what mends itself: a worker that is started again, and a place of pictures that is left alone."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class HealingSettings(BaseSettings):
    """A part of audit.settings.Settings, which alone reads the environment."""

    guard_silent_s: Positive = Field(60.0, description="Silence of a worker's main process after which it hangs.")
    guard_unready_s: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Longest without a slot that can judge; 0: twice the canary limit."
    )
    guard_tries: Count = Field(5, description="Restarts of a worker without progress before that is given up.")
    guard_first_wait_s: Positive = Field(1.0, description="Wait before a worker is started again; it doubles.")
    guard_longest_wait_s: Positive = Field(60.0, description="The longest such wait.")
    guard_steady_s: Positive = Field(180.0, description="Ready, with nothing to do, for so long counts as progress.")

    breaker_failures: Count = Field(3, description="Failures in a row after which a place of pictures is left alone.")
    breaker_window_s: Positive = Field(600.0, description="Failures further apart than this are not in a row.")
    breaker_open_s: Positive = Field(30.0, description="How long it is left alone at first; doubling with each try.")
    breaker_longest_s: Positive = Field(600.0, description="The longest time that it is left alone.")
