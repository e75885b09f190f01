"""URLs of servers: with a password from elsewhere, with a demand for certificates, without secrets for people."""

from urllib.parse import quote, urlsplit

from pydantic import SecretStr


def redact(url: str) -> str:
    """The URL without user and password, for messages and logs."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return parts._replace(netloc="***@" + parts.netloc.rsplit("@", 1)[1]).geturl()


def with_password(url: SecretStr, password: SecretStr | None) -> str:
    """The URL with the password in its place; it is not to be logged."""
    if password is None:
        return url.get_secret_value()
    parts = urlsplit(url.get_secret_value())
    user, _, server = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:{quote(password.get_secret_value(), safe='')}@{server}").geturl()


def with_proof(url: str) -> str:
    """A rediss:// URL that says nothing of certificates, with a demand for a good one: Celery would take any."""
    parts = urlsplit(url)
    if parts.scheme != "rediss" or "ssl_cert_reqs=" in parts.query:
        return url
    return parts._replace(query="&".join(filter(None, [parts.query, "ssl_cert_reqs=required"]))).geturl()


def is_redis_url(url: str) -> bool:
    """Whether Celery and redis-py would both take it for what it says."""
    try:
        parts = urlsplit(url)
        port, database = parts.port, parts.path.strip("/")
    except ValueError:
        return False
    if port == 0 or parts.fragment or "@" in parts.query:
        return False
    if parts.scheme in ("unix", "redis+socket"):
        return True
    return parts.scheme in ("redis", "rediss") and (not database or database.isdecimal())
