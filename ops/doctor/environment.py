"""The environment: settings that are refused, that nobody reads, or that Celery reads past them."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from urllib.parse import unquote, urlsplit

from audit.errors import UsageError
from audit.settings import BROKER_OVERRIDES, OWN_NAMES, Settings, read_settings
from ops.doctor.lines import Line, ok, warning, wrong

OF_COMPOSE = "AUDIT_IMAGE_TAG"
UNSET = "unset it; caption-audit's settings are AUDIT_*, DATABASE_URL and REDIS_URL"


def readable_settings(environ: Mapping[str, str]) -> tuple[Settings | None, str]:
    """The settings, and why a worker would refuse this environment (empty: it would not).

    Celery's variables alone leave the settings readable, so that the rest can be looked at; otherwise they are None.
    """
    try:
        return read_settings(environ), ""
    except UsageError as error:
        reason = error.detail
    try:
        return read_settings({name: value for name, value in environ.items() if not name.startswith("CELERY_")}), reason
    except UsageError:
        return None, reason


def settings_line(environ: Mapping[str, str]) -> Iterator[Line]:
    """Whether the settings are understood. Names of variables are shown, values never: they may be passwords."""
    settings, reason = readable_settings(environ)
    if settings is None:
        means = "no command works before it is mended; what depends on settings was not looked at"
        yield wrong("settings", reason, means=means, cure="mend or unset this variable; the README has a table of them")
        return
    known = _known()
    given = sorted(name for name in environ if name in known and environ[name])
    yield ok("settings", f"understood; given: {', '.join(given) or 'none, all have their default'}")
    if settings.engine == "stub":
        yield warning(
            "engine",
            "AUDIT_ENGINE=stub",
            means="verdicts are made up without a look at any picture: it is for tests of queues",
            cure="unset AUDIT_ENGINE where verdicts are wanted",
        )


def unlooked_line(refused: str) -> Iterator[Line]:
    """For a topic that cannot be looked at without settings."""
    means = f"the settings are refused ({refused})"
    yield wrong("settings", "not looked at", means=means, cure="mend the settings, and ask again")


def unknown_lines(environ: Mapping[str, str]) -> Iterator[Line]:
    """Variables that look like settings and are read by nobody: typing errors, and what other versions knew."""
    known = _known()
    for name in sorted(environ):
        if name.startswith("AUDIT_") and name not in known and name != OF_COMPOSE:
            near = get_close_matches(name, known, n=1)
            cure = f"is {near[0]} meant?" if near else "unset it, or see the README's table of settings"
            yield warning(name, "no setting has this name", means="nobody reads it", cure=cure)


def celery_lines(environ: Mapping[str, str]) -> Iterator[Line]:
    """Variables that Celery reads by itself and lets win over the code's configuration."""
    settings, _ = readable_settings(environ)
    found = sorted(name for name in environ if name.startswith("CELERY_") and environ[name])
    for name in found:
        yield _celery(name, environ[name], settings)
    if not found:
        yield ok("CELERY_*", "none is set", means="Celery takes its configuration from caption-audit alone")


def _celery(name: str, value: str, settings: Settings | None) -> Line:
    if name in BROKER_OVERRIDES:
        if settings is not None and value == settings.broker_url:
            return ok(name, "the same as REDIS_URL")
        means = "Celery would send messages there, and not to REDIS_URL"
        return wrong(name, "is set, and is not REDIS_URL", means=means, cure=UNSET)
    if name == "CELERY_RESULT_BACKEND":
        means = "Celery would write results there; verdicts live in the ledger, and workers refuse to start"
        return wrong(name, "is set", means=means, cure=UNSET)
    if name in ("CELERY_LOADER", "CELERY_CONFIG_MODULE", "CELERY_CUSTOM_WORKER_POOL"):
        return wrong(name, "is set", means="Celery would load code or configuration of somebody else", cure=UNSET)
    return warning(name, "is set", means="Celery may read it by itself, past caption-audit's settings", cure=UNSET)


def _known() -> list[str]:
    return [OWN_NAMES.get(field) or f"AUDIT_{field.upper()}" for field in Settings.model_fields]


def secrets_of(environ: Mapping[str, str]) -> list[str]:
    """Every password that this environment holds, as it is and as a URL writes it; to be kept out of errors' texts."""
    found = {value for name, value in environ.items() if name.startswith("AUDIT_") and "PASSWORD" in name}
    for value in environ.values():
        if "@" in value and "://" in value:
            with suppress(ValueError):
                password = urlsplit(value).password or ""
                found |= {password, unquote(password)}
    return sorted(found - {""})
