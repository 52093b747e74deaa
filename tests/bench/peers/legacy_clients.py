"""Holds COUNT sessions of TLS 1.2 with RSA key exchange and CBC, one request answered on each, until
its standard input ends. Says `open` when all are."""

import socket
import ssl
import sys

address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.maximum_version = ssl.TLSVersion.TLSv1_2
context.set_ciphers("AES128-SHA256:@SECLEVEL=0")
sessions = []
for _ in range(count):
    stream = socket.create_connection((address, port), timeout=20)
    session = context.wrap_socket(stream, server_hostname="old.example")
    session.sendall(b"GET /small HTTP/1.1\r\nHost: old.example\r\n\r\n")
    answer = b""
    while not answer.endswith(b"small\n"):
        more = session.recv(4096)
        if not more:
            sys.exit("the session ended: %r" % answer)
        answer += more
    sessions.append(session)
print("open", flush=True)
sys.stdin.read()
