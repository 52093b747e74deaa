"""tlslite-ng as a client and as a server of one version and one suite at a time.

    tlslite_peer.py client EtM
        jobs on standard input, a line each: HOST PORT SERVER_NAME VERSION SUITE
        (SERVER_NAME "-": none); answers on standard output, see run_job
    tlslite_peer.py server HOST EtM
        ports on standard input, a line each: PORT VERSION SUITE CHAIN KEY; then an empty line. Prints
        "ready", and echoes lines until its standard input ends.

EtM: "on" or "off". VERSION: as SSL 3.0's 0300. SUITE: IANA's name.
"""

import os
import socket
import sys
import threading
import traceback

from tlslite.api import HandshakeSettings, SessionCache, TLSConnection, X509CertChain, parsePEMKey
from tlslite.constants import CipherSuite

LINE = b"weir " * 60


def palindrome(line):
    return line + line[::-1] + b"\n"


def settings_of(version, suite, etm):
    """Nothing but this version and suite is offered or taken."""
    number = (int(version[:2], 16), int(version[2:], 16))
    settings = HandshakeSettings()
    settings.minVersion = settings.maxVersion = number
    settings.versions = [number]
    settings.useEncryptThenMAC = etm
    # It cannot compute what it agrees on in SSL 3.0.
    settings.useExtendedMasterSecret = number > (3, 0)
    words = suite.replace("TLS_", "").split("_")
    kex, rest = "_".join(words), ""
    if "WITH" in words:
        kex, rest = suite.replace("TLS_", "").split("_WITH_")
        settings.keyExchangeNames = [kex.lower()]
    else:
        rest = kex
    bulk = {
        "AES_128_GCM": "aes128gcm",
        "AES_256_GCM": "aes256gcm",
        "AES_128_CBC": "aes128",
        "AES_256_CBC": "aes256",
        "3DES_EDE_CBC": "3des",
        "CHACHA20_POLY1305": "chacha20-poly1305",
    }
    cipher, mac = rest.rsplit("_", 1)
    settings.cipherNames = [bulk[cipher]]
    settings.macNames = [mac.lower()] if cipher.endswith("CBC") else ["aead"]
    if mac == "SHA1":
        settings.macNames = ["sha"]
    settings.eccCurves = ["x25519", "secp256r1", "secp384r1", "secp521r1"]
    if number < (3, 4):
        settings.eccCurves.append("secp224r1")
    settings.keyShares = ["x25519", "secp256r1"]
    return settings


def read_line(connection):
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(4096)
        if not part:
            break
        line += bytes(part)
    return line


def session(job, settings, previous):
    host, port, name, _, suite = job
    stream = socket.create_connection((host, int(port)), timeout=60)
    connection = TLSConnection(stream)
    server_name = None if name == "-" else name
    connection.handshakeClientCert(session=previous, settings=settings, serverName=server_name)
    sent = palindrome(LINE)
    connection.sendall(sent)
    answer = read_line(connection)
    if answer != sent:
        raise ValueError("%d bytes came back for %d" % (len(answer), len(sent)))
    version = "%02x%02x" % connection.version
    number = connection.session.cipherSuite
    resumed = "resumed" if connection.resumed else "full"
    etm = "etm" if connection.encryptThenMAC else "mte"
    connection.close()
    return connection.session, "%s %04x %s %s" % (version, number, resumed, etm)


def run_job(job, etm):
    """"ok VERSION SUITE full|resumed etm|mte" twice, or "failed WORDS"."""
    settings = settings_of(job[3], job[4], etm)
    previous, first = session(job, settings, None)
    _, second = session(job, settings, previous)
    return "ok %s %s" % (first, second)


def client(etm):
    for line in sys.stdin:
        try:
            answer = run_job(line.split(), etm)
        except Exception as error:
            answer = "failed %s %s" % (type(error).__name__, str(error).replace("\n", " "))
        print(answer, flush=True)


def serve(listener, chain, key, settings, cache):
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=echo, args=(stream, chain, key, settings, cache)).start()


def echo(stream, chain, key, settings, cache):
    try:
        connection = TLSConnection(stream)
        connection.handshakeServer(
            certChain=chain,
            privateKey=key,
            settings=settings,
            sessionCache=cache,
            # In TLS 1.3 it ends where a client offers some and it has none.
            alpn=None if settings.maxVersion == (3, 0) else [bytearray(b"http/1.1")],
        )
        while True:
            line = read_line(connection)
            if not line:
                break
            connection.sendall(line)
        connection.close()
    except Exception:
        traceback.print_exc()
    finally:
        stream.close()


def load(certificate, key):
    chain = X509CertChain()
    chain.parsePemList(open(certificate).read())
    return chain, parsePEMKey(open(key).read(), private=True)


def server(host, etm):
    for line in sys.stdin:
        if not line.strip():
            break
        port, version, suite, chain, key = line.split()
        settings = settings_of(version, suite, etm)
        # RFC 5077 and RFC 7301 are of TLS: it would use them in SSL 3.0 all the same.
        ssl3 = settings.maxVersion == (3, 0)
        settings.ticketKeys = [] if ssl3 else [bytearray(os.urandom(32))]
        listener = socket.create_server((host, int(port)), backlog=64)
        arguments = (listener, *load(chain, key), settings, SessionCache())
        threading.Thread(target=serve, args=arguments, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    etm = sys.argv[-1] == "on"
    if sys.argv[1] == "client":
        client(etm)
    else:
        server(sys.argv[2], etm)
