"""A host of its own for a process: a network namespace behind a virtual cable that can be cut, and a host name."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherHost:
    """`before` goes in front of a command to run it there; servers for it listen on `address`."""

    namespace: str
    address: str
    before: Sequence[str]

    def cut(self) -> None:
        """Drop every packet, both ways: nobody is told of anything, as when a cable is pulled."""
        for chain in ("INPUT", "OUTPUT"):
            _run(
                "ip",
                "netns",
                "exec",
                self.namespace,
                "iptables",
                "-I",
                chain,
                "!",
                "-i" if chain == "INPUT" else "-o",
                "lo",
                "-j",
                "DROP",
            )

    def mend(self) -> None:
        """Let packets pass again."""
        _run("ip", "netns", "exec", self.namespace, "iptables", "-F")


@contextmanager
def other_host(name: str) -> Iterator[OtherHost]:
    """A namespace with a cable to this host; skips the test where root or a program is missing."""
    lacking = [program for program in ("ip", "iptables", "unshare", "hostname") if shutil.which(program) is None]
    if os.geteuid() != 0 or lacking:
        pytest.skip(f"a network namespace needs {lacking[0] if lacking else 'root'}")
    namespace = f"ca-{os.getpid()}-{name}"
    here, there = (f"ca{os.getpid() % 100000}{name[:4]}{end}" for end in "ab")
    third, fourth = random.randrange(256), 4 * random.randrange(64)
    address, its = (f"10.213.{third}.{fourth + host}" for host in (1, 2))
    made = subprocess.run(["ip", "netns", "add", namespace], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"network namespaces are not allowed here: {made.stderr.strip()}")
    try:
        _run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", namespace)
        _run("ip", "address", "add", f"{address}/30", "dev", here)
        _run("ip", "link", "set", here, "up")
        _run("ip", "-n", namespace, "address", "add", f"{its}/30", "dev", there)
        for device in (there, "lo"):
            _run("ip", "-n", namespace, "link", "set", device, "up")
        yield OtherHost(
            namespace=namespace, address=address, before=("ip", "netns", "exec", namespace, *another_name(name))
        )
    finally:
        _run("ip", "netns", "delete", namespace)
        subprocess.run(["ip", "link", "delete", here], capture_output=True, check=False)  # usually gone with its peer


def another_name(name: str) -> Sequence[str]:
    """Goes before a command to give it a host name of its own: nobody takes its processes for neighbours'."""
    return ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
