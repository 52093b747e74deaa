"""A client of TLS 1.1 that asks to renegotiate, over and over, and reads none of the answers.

    renegotiating_peer.py HOST PORT SERVER_NAME MOST
        Prints "PORT stalled BYTES" once nobody has read for three seconds what it sends, so many bytes so
        far; "PORT ended BYTES" where the connection ended before; "PORT read BYTES" where MOST bytes were
        taken. Then waits for the end of its standard input, and leaves without a word.
"""

import socket
import sys

from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.constants import ContentType
from tlslite.messages import Message

# The head of a ClientHello without a body: no more of it is looked at where the answer is no.
ASKS = bytearray([1, 0, 0, 0])


def ask(connection, stream, most):
    records = connection._recordLayer
    stream.settimeout(3)
    sent = 0
    while sent < most:
        try:
            # A copy: what is sent is made of it in place.
            for _ in records.sendRecord(Message(ContentType.handshake, bytearray(ASKS))):
                pass
        except socket.timeout:
            return "stalled %d" % sent
        except OSError:
            return "ended %d" % sent
        sent += 53
    return "read %d" % sent


def main(host, port, name, most):
    stream = socket.socket()
    # Little room for what is not read.
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    stream.settimeout(60)
    stream.connect((host, int(port)))
    settings = HandshakeSettings()
    settings.minVersion = settings.maxVersion = (3, 2)
    settings.cipherNames = ["aes128"]
    settings.macNames = ["sha"]
    settings.keyExchangeNames = ["rsa"]
    settings.useEncryptThenMAC = False
    connection = TLSConnection(stream)
    connection.handshakeClientCert(settings=settings, serverName=name)
    print(stream.getsockname()[1], ask(connection, stream, int(most)), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
