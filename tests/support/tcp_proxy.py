"""A network of bad quality: a TCP proxy that delays what passes, swallows it silently, or takes nobody."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(eq=False, slots=True)
class _Link:
    """One connection through the proxy; once `silent` it stays so: bytes that were lost do not come back."""

    silent: bool
    swallowed: bool = False
    writers: list[asyncio.StreamWriter] = field(default_factory=list)


class TcpProxy:
    """Listens on a free port of 127.0.0.1 and passes bytes on to `target`; told by a test how badly to do it.

    `swallowed` counts connections on which something was lost.
    """

    def __init__(self, target: tuple[str, int] | Path) -> None:
        self.port = 0
        self.swallowed = 0
        self._target = target
        self._delay_s = 0.0
        self._silent = False
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp proxy", daemon=True)
        self._thread.start()
        self.admit()

    def delay(self, seconds: float) -> None:
        """From now on every byte takes so long, each way; how many may pass at once is not limited."""
        self._call(lambda: setattr(self, "_delay_s", seconds))

    def swallow(self) -> None:
        """Half-open: connections stay open and are accepted, every byte is acknowledged, and nothing arrives."""

        def silence() -> None:
            self._silent = True
            for link in self._links:
                link.silent = True

        self._call(silence)

    def heal(self) -> None:
        """New connections work again; those that were silent stay silent and open for ever."""
        self._call(lambda: setattr(self, "_silent", False))

    def refuse(self) -> None:
        """Break every connection and take no new ones."""

        async def refuse() -> None:
            assert self._server is not None
            self._server.close()
            for link in self._links:
                for writer in link.writers:
                    writer.transport.abort()

        asyncio.run_coroutine_threadsafe(refuse(), self._loop).result(timeout=20)

    def admit(self) -> None:
        """Listen, on the same port as before."""

        async def listen() -> None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = int(self._server.sockets[0].getsockname()[1])

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result(timeout=20)

    def close(self) -> None:
        """Break everything and end the thread."""
        self.refuse()

        async def finish() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(finish(), self._loop).result(timeout=20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=20)
        self._loop.close()

    def _call(self, work: Callable[[], None]) -> None:
        async def call() -> None:
            work()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(timeout=20)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self._silent, writers=[writer])
        self._links.add(link)
        try:
            there = await self._reach()
            link.writers.append(there[1])
            await asyncio.gather(self._pass(link, reader, there[1]), self._pass(link, there[0], writer))
        except OSError:
            pass
        finally:
            self._links.discard(link)
            for each in link.writers:
                each.close()

    async def _reach(self) -> Streams:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection(*self._target)

    async def _pass(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, in order: what was read waits in a line until its time has come."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.ensure_future(self._send(link, line, writer))
        try:
            while data := await reader.read(65536):
                line.put_nowait((self._loop.time() + self._delay_s, data))
        finally:
            line.put_nowait((self._loop.time() + self._delay_s, b""))
            await sending

    async def _send(
        self, link: _Link, line: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due, data = await line.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            if link.silent and data:
                self.swallowed += not link.swallowed
                link.swallowed = True
                continue
            with suppress(OSError):
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()


@contextmanager
def proxy_to(target: tuple[str, int] | Path) -> Iterator[TcpProxy]:
    """A proxy for the length of a block."""
    proxy = TcpProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
