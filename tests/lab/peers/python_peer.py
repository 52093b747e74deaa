"""Python's ssl module (OpenSSL of the distribution) as a client and as a server.

    python_peer.py client TRUST
        jobs on standard input, a line each: HOST PORT SERVER_NAME VERSION SUITE
        (SERVER_NAME "-": none; the certificate is verified strictly, for SERVER_NAME, under the
        authorities in TRUST); answers on standard output, see run_job
    python_peer.py server HOST
        ports on standard input, a line each: PORT VERSION SUITE CHAIN KEY [CHAIN KEY]; then an empty
        line. Prints "ready", and echoes lines until its standard input ends; a line that is an
        HTTP/1.1 request's first is answered with a page instead.

VERSION: as SSL 3.0's 0300; "-": any. SUITE: OpenSSL's name, those of TLS 1.3 cannot be chosen; "-":
any, however weak.
"""

import os
import selectors
import socket
import ssl
import sys
import threading

LINE = b"weir " * 60
VERSIONS = {
    "0301": ssl.TLSVersion.TLSv1,
    "0302": ssl.TLSVersion.TLSv1_1,
    "0303": ssl.TLSVersion.TLSv1_2,
    "0304": ssl.TLSVersion.TLSv1_3,
}
CODES = {"TLSv1": "0301", "TLSv1.1": "0302", "TLSv1.2": "0303", "TLSv1.3": "0304"}
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"


def narrow(context, version, suite):
    if version != "-":
        context.minimum_version = context.maximum_version = VERSIONS[version]
    if version != "0304":
        context.set_ciphers(("ALL" if suite == "-" else suite) + ":@SECLEVEL=0")


def session(context, job, previous):
    host, port, name, _, _ = job
    server_name = None if name == "-" else name
    with socket.create_connection((host, int(port)), timeout=60) as stream:
        with context.wrap_socket(stream, server_hostname=server_name, session=previous) as tls:
            sent = LINE + LINE[::-1] + b"\n"
            tls.sendall(sent)
            answer = b""
            while not answer.endswith(b"\n"):
                part = tls.recv(4096)
                if not part:
                    break
                answer += part
            if answer != sent:
                raise ValueError("%d bytes came back for %d" % (len(answer), len(sent)))
            resumed = "resumed" if tls.session_reused else "full"
            said = "%s %s %s -" % (CODES[tls.version()], tls.cipher()[0], resumed)
            return tls.session, said


def run_job(job, trust):
    """"ok VERSION SUITE full|resumed -" twice, or "failed WORDS"."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(trust)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    narrow(context, job[3], job[4])
    previous, first = session(context, job, None)
    _, second = session(context, job, previous)
    return "ok %s %s" % (first, second)


def client(trust):
    for line in sys.stdin:
        try:
            answer = run_job(line.split(), trust)
        except Exception as error:
            answer = "failed %s %s" % (type(error).__name__, str(error).replace("\n", " "))
        print(answer, flush=True)


def echo(stream, context):
    try:
        stream.settimeout(60)
        with context.wrap_socket(stream, server_side=True) as tls:
            line = b""
            while True:
                part = tls.recv(4096)
                if not part:
                    break
                line += part
                if line.startswith(b"GET "):
                    if line.endswith(b"\r\n\r\n"):
                        tls.sendall(PAGE)
                        break
                elif line.endswith(b"\n"):
                    tls.sendall(line)
                    line = b""
            tls.unwrap()
    except Exception as error:
        print(type(error).__name__, error, file=sys.stderr, flush=True)
    finally:
        stream.close()


def server(host):
    listeners = selectors.DefaultSelector()
    for line in sys.stdin:
        if not line.strip():
            break
        port, version, suite, *pairs = line.split()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        narrow(context, version, suite)
        for chain, key in zip(pairs[::2], pairs[1::2]):
            context.load_cert_chain(chain, key)
        listener = socket.create_server((host, int(port)), backlog=64)
        listeners.register(listener, selectors.EVENT_READ, context)
    listeners.register(sys.stdin, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for ready, _ in listeners.select():
            if ready.fileobj is sys.stdin:
                os._exit(0)
            stream, _ = ready.fileobj.accept()
            threading.Thread(target=echo, args=(stream, ready.data), daemon=True).start()


if __name__ == "__main__":
    (client if sys.argv[1] == "client" else server)(*sys.argv[2:])
