"""A broker that follows a script, for what real brokers do rarely: takeovers, refusals, silence, nonsense."""

import socket
import struct
import threading


def _read_exactly(sock, size):
    out = b""
    while len(out) < size:
        piece = sock.recv(size - len(out))
        if not piece:
            raise ConnectionError
        out += piece
    return out


def read_packet(sock):
    """(type, body) of the next packet."""
    first = _read_exactly(sock, 1)[0]
    size = shift = 0
    while True:
        byte = _read_exactly(sock, 1)[0]
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return first >> 4, _read_exactly(sock, size)


class ScriptedBroker:
    """Each connection is served by `serve(sock, n)`, n = 1, 2, …; `packets` holds (connection, type, body) as they came."""

    def __init__(self, serve):
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self.packets = []
        self.faults = []
        self._socks = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._socks.append(sock)
            try:
                self._serve(self, sock)
            except (ConnectionError, OSError):
                continue
            except Exception as fault:  # noqa: BLE001 -- told at the end of the test
                self.faults.append(fault)
            finally:
                sock.close()

    def read(self, sock):
        kind, body = read_packet(sock)
        self.packets.append((self.connections, kind, body))
        return kind, body

    def until(self, sock, kind):
        while True:
            got, body = self.read(sock)
            if got == kind:
                return body

    def greet(self, sock, session_present=False, code=0, granted=1):
        """CONNECT -> CONNACK, SUBSCRIBE -> SUBACK, in MQTT 5."""
        self.until(sock, 1)
        sock.sendall(bytes([0x20, 3, int(session_present), code, 0]))
        if code:
            return
        body = self.until(sock, 8)
        count, at = 0, 3
        while at < len(body):
            at += 3 + struct.unpack(">H", body[at : at + 2])[0]
            count += 1
        sock.sendall(bytes([0x90, 3 + count]) + body[:2] + b"\0" + bytes([granted]) * count)

    def close(self):
        # shutdown wakes the accept; close alone would leave it waiting.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._socks:
            sock.close()
        self._thread.join(20)
        assert not self._thread.is_alive()
        assert self.faults == []
