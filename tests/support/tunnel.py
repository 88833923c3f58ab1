"""The API as a company's network lets it be reached: over TLS with a certificate of its own, and only through a proxy.

Every name leads to one world, or to a simulator that listens; those under `drill.invalid` resolve nowhere but at the
proxy, so that whatever goes another way fails, and reaches nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

from engine.simulator.world import World
from tests.support.command import PATIENCE_S

API = "https://postgres.drill.invalid"
STS = "https://sts.drill.invalid"
HOOK = "https://hooks.drill.invalid"
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgEnYW7ZlpQ5/81lkD
KRnpj11ZLNB7AiAEec/FVaOMQ7ahRANCAAQVyZiWU8RYuTrlBhLtMthCa6fWlCZo
mNPf3z41Zme/YNohQ7nteEqYPpIlrp2slTjer7WYshMAx3oszfTKYjCF
-----END PRIVATE KEY-----
"""
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIICVjCCAfygAwIBAgIUHe9EY/sDcNcUYmspY7/jtN08rH4wCgYIKoZIzj0EAwIw
HzEdMBsGA1UEAwwUYWNjdG9wcy10ZXN0LXByb3hpZWQwIBcNMjYxMTI2MDIyOTMx
WhgPMjEyNjExMDIwMjI5MzFaMB8xHTAbBgNVBAMMFGFjY3RvcHMtdGVzdC1wcm94
aWVkMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEFcmYllPEWLk65QYS7TLYQmun
1pQmaJjT398+NWZnv2DaIUO57XhKmD6SJa6drJU43q+1mLITAMd6LM30ymIwhaOC
ARIwggEOMB0GA1UdDgQWBBR8gUTYVG1AXFvJVWwqxgyox54c6TAfBgNVHSMEGDAW
gBR8gUTYVG1AXFvJVWwqxgyox54c6TCBugYDVR0RBIGyMIGvgg8qLmRyaWxsLmlu
dmFsaWSCFSoudGVuY2VudGNsb3VkYXBpLmNvbYIaKi5pbnRsLnRlbmNlbnRjbG91
ZGFwaS5jb22CIiouYXAtc2luZ2Fwb3JlLnRlbmNlbnRjbG91ZGFwaS5jb22CHiou
YXAtdG9reW8udGVuY2VudGNsb3VkYXBpLmNvbYIlKi5hcC1zaGFuZ2hhaS1mc2ku
dGVuY2VudGNsb3VkYXBpLmNvbTAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMC
A0gAMEUCIEtprQMIKYeXmT0Kh1SuFub3k1T2N6IXfbAL1lFXK+wjAiEA661aRnsV
oKaTFcIYtDO0r7oDiqL+p6QibaC8+Cc6iJ4=
-----END CERTIFICATE-----
"""
"""Of `*.drill.invalid` and the API's own names in three regions, signed by itself, good until 2126."""


class Tunnel:
    """The proxy, and behind it API, STS and a webhook, in a thread with a loop of its own. A context manager."""

    def __init__(self, world: World, place: Path, *, behind: int | None = None) -> None:
        """`place`: where its certificate is written to, as `ca.pem`; `behind`: port of the server that answers."""
        self.world = world
        self._behind = behind
        self.bundle = place / "ca.pem"
        self.bundle.write_text(CERTIFICATE)
        both = place / "both.pem"
        both.write_text(KEY + CERTIFICATE)
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(both)
        self.proxy = ""
        """Its URL."""
        self.asked_for: list[str] = []
        """`host:port` of each tunnel that was asked for."""
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Host and headers of each request, names in small letters."""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="tunnel")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None

    def hosts(self) -> set[str]:
        """Who was asked something."""
        return {host for host, _ in self.requests}

    def __enter__(self) -> Tunnel:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._loop is not None and self._ended is not None
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        front = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=self._tls)
        self._port = front.sockets[0].getsockname()[1]
        proxy = await asyncio.start_server(self._open, "127.0.0.1", 0)
        self.proxy = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._ended.wait()
        front.close()
        proxy.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.sleep(0.01)  # aborted transports close in later turns

    async def _open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """CONNECT: whatever is asked for is the one server behind."""
        async with _until_gone(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked_for.append(head.split()[1].decode())
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with _until_gone(back):
                await asyncio.gather(_pump(reader, back), _pump(there, writer))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with _until_gone(writer):
            if self._behind is not None:
                there, back = await asyncio.open_connection("127.0.0.1", self._behind)
                async with _until_gone(back):
                    await asyncio.gather(_pump(reader, back), _pump(there, writer))
                return
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
                headers = {name.lower(): value for name, _, value in lines}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                host = headers["host"]
                self.requests.append((host, headers))
                if f"https://{host}" == HOOK:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    continue
                now = time.time()
                said = self.world.handle(method="POST", query="", headers=headers, body=body, access=host, now=now)
                answer = f"HTTP/1.1 {said.status} OK\r\nContent-Type: {said.content_type}\r\n"
                writer.write(f"{answer}Content-Length: {len(said.body)}\r\n\r\n".encode() + said.body)


@contextlib.asynccontextmanager
async def _until_gone(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Whoever asked may leave at any time; the connection does not outlive this."""
    try:
        with contextlib.suppress(OSError, EOFError, asyncio.IncompleteReadError):
            yield
    finally:
        writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
