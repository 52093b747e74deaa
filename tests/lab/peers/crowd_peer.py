"""Clients of old, many at one time: each session to its end, or to a stage.

    crowd_peer.py JOBS AT_ONCE
        JOBS: a file, a line a session: HOST PORT SERVER_NAME VERSION SUITE STAGE END. VERSION: a name of
        ssl.TLSVersion's; SUITE: OpenSSL's name; STAGE: where it stops ("Never": at its end); END: "reset"
        or "close", where it stops. Prints how many sessions came to what: "completed", "aborted" (where
        they meant to) and "broken"; those in their own words on standard error.

It verifies no certificate, and says and hears the request and the answer of tests/lab/src/crowd.
"""

import concurrent.futures
import functools
import socket
import ssl
import struct
import sys

REQUEST = b"GET / HTTP/1.1\r\nHost: lab.example\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong"


@functools.cache
def context(version, suite):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.set_ciphers(suite + ":@SECLEVEL=0")
    made.minimum_version = made.maximum_version = ssl.TLSVersion[version]
    return made


class Stopped(Exception):
    """Where it meant to."""


class End:
    def __init__(self, stream, tls, incoming, outgoing, stage, reset):
        self.stream, self.tls = stream, tls
        self.incoming, self.outgoing = incoming, outgoing
        self.stage, self.reset = stage, reset

    def at(self, stage):
        if stage == self.stage:
            if self.reset:
                self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise Stopped

    def flush(self):
        self.stream.sendall(self.outgoing.read())

    def read(self):
        part = self.stream.recv(65536)
        if not part:
            raise EOFError("the end")
        self.incoming.write(part)

    def advance(self, act):
        """Whether that could be done with what has come; None: it waits for more."""
        try:
            return act()
        except ssl.SSLWantReadError:
            return None

    def shake_hands(self):
        done = self.advance(lambda: self.tls.do_handshake() or True)
        hello = self.outgoing.read()
        self.stream.sendall(hello[:100] if self.stage == "PartOfHello" else hello)
        self.at("PartOfHello")
        self.at("Hello")
        while not done:
            self.read()
            self.at("AmidHandshake")
            done = self.advance(lambda: self.tls.do_handshake() or True)
            self.flush()
        self.at("Handshaken")

    def say(self, words):
        self.tls.write(words)
        self.flush()

    def hear(self, words):
        heard = b""
        while len(heard) < len(words):
            part = self.advance(lambda: self.tls.read(1024))
            if part is None:
                self.read()
            else:
                heard += part
        if heard != words:
            raise ValueError("other bytes came: %r" % heard)

    def close(self):
        self.advance(self.tls.unwrap)
        self.flush()
        self.stream.shutdown(socket.SHUT_WR)
        while self.stream.recv(65536):
            pass


def session(line):
    host, port, name, version, suite, stage, end = line.split()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        with socket.create_connection((host, int(port)), timeout=120) as stream:
            tls = context(version, suite).wrap_bio(incoming, outgoing, server_hostname=name)
            client = End(stream, tls, incoming, outgoing, stage, end == "reset")
            client.at("Connected")
            client.shake_hands()
            client.say(REQUEST)
            client.at("Requested")
            client.hear(ANSWER)
            client.at("Answered")
            client.close()
            return "completed"
    except Stopped:
        return "aborted"
    except Exception as error:
        print("%s: %r" % (line.strip(), error), file=sys.stderr, flush=True)
        return "broken"


def main(jobs, at_once):
    with concurrent.futures.ThreadPoolExecutor(int(at_once)) as pool:
        ends = list(pool.map(session, open(jobs)))
    print(*("%s %d" % (end, ends.count(end)) for end in ("completed", "aborted", "broken")))


if __name__ == "__main__":
    main(*sys.argv[1:])
