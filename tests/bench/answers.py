"""A server that only answers, as a process: `python -m tests.bench.answers`. For what a client costs, not for pacing.

It checks nothing and knows nothing, so that it takes little of a small machine: the simulator would take more of it
than the client that is measured. Prints its URL; ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import count

_NUMBERS = count()
_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


class Answers(asyncio.Protocol):
    """One connection: HTTP/1.1, kept alive, bodies with a Content-Length, as aiohttp sends them."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(_END)) >= 0:
            head = self._data[:end].lower()
            at = head.find(_LENGTH) + len(_LENGTH)
            whole = end + len(_END) + int(head[at:].split(b"\r\n", 1)[0])
            if len(self._data) < whole:
                return
            self._data = self._data[whole:]
            body = b'{"Response":{"RequestId":"%032x"}}' % next(_NUMBERS)
            self._transport.write(  # type: ignore[attr-defined]
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Sun, 22 Nov 2026 03:13:21 GMT\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answers, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f'["http://127.0.0.1:{server.sockets[0].getsockname()[1]}"]\n')
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
