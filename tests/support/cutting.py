"""A proxy on loopback that cuts connections at chosen bytes: what is asked arrives, and its answer does not."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator


class Cutter:
    """Between a client and a server; `cut` decides what happens to the client's bytes."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cut: Callable[[bytes], str] = lambda _data: "pass"
        """What to do with bytes of the client: `pass`; `before` or `after` the server gets them, cut; `hold` them."""
        self.is_open = True
        """Whether new connections are accepted."""
        self.held = threading.Event()
        self.release = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self.is_open:
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._server)) as server:
            back = threading.Thread(target=self._back, args=(server, client), daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                while data := client.recv(1 << 16):
                    what = self.cut(data)
                    if what == "before":
                        break
                    if what == "hold":
                        self.held.set()
                        self.release.wait(60)
                    if what == "after":
                        client.shutdown(socket.SHUT_RDWR)
                        server.sendall(data)
                        server.settimeout(5)
                        break
                    server.sendall(data)
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_WR)
            back.join(10)

    @staticmethod
    def _back(server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                with contextlib.suppress(OSError):
                    client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@contextlib.contextmanager
def cutting(port: int) -> Iterator[Cutter]:
    """A proxy to this port for as long as the block goes on."""
    cutter = Cutter(port)
    try:
        yield cutter
    finally:
        cutter.close()
