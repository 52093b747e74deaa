"""An end of TLS sessions that says alerts of the test's choice: GnuTLS, which has a call for it.

    alerts.py server ADDRESS PORT PRIORITIES CERTIFICATE KEY ACT...
    alerts.py client ADDRESS PORT PRIORITIES NAME ACT...

One connection for each ACT, one after another; one line of output for each: what its peer did.
ACTs: "watch" waits for the peer, "early" means before any data, "send:LEVEL:NUMBER" is an alert
followed by FIN, "close" is close_notify and FIN, "cancel" is user_canceled and then that, "fin" is FIN
alone, "reset" is RST.
"""

import ctypes
import socket
import struct
import sys

REQUEST = b"GET / HTTP/1.1\r\nHost: public.example\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong"
SERVER, CLIENT, NO_TICKETS = 1, 2, 1 << 10
AGAIN, INTERRUPTED, FATAL_ALERT, WARNING_ALERT, PREMATURE = -28, -52, -12, -16, -110

library = ctypes.CDLL("libgnutls.so.30")


def check(result):
    if result < 0:
        library.gnutls_strerror.restype = ctypes.c_char_p
        raise RuntimeError(library.gnutls_strerror(result).decode())


class Session:
    def __init__(self, role, stream, priorities, credentials, name):
        self.stream, self.session = stream, ctypes.c_void_p()
        check(library.gnutls_init(ctypes.byref(self.session), role | NO_TICKETS))
        check(library.gnutls_priority_set_direct(self.session, priorities.encode(), None))
        check(library.gnutls_credentials_set(self.session, 1, credentials))
        if name:
            name = name.encode()
            check(library.gnutls_server_name_set(self.session, 1, name, len(name)))
        library.gnutls_transport_set_int2(self.session, stream.fileno(), stream.fileno())

    def handshake(self):
        while True:
            result = library.gnutls_handshake(self.session)
            if result not in (AGAIN, INTERRUPTED, WARNING_ALERT):
                return check(result)

    def send(self, data):
        check(library.gnutls_record_send(self.session, data, len(data)))

    def receive(self):
        """Data, or what ended the session in words."""
        buffer = ctypes.create_string_buffer(16384)
        while True:
            result = library.gnutls_record_recv(self.session, buffer, len(buffer))
            if result > 0:
                return buffer.raw[:result]
            if result == 0:
                return "close_notify"
            if result == FATAL_ALERT:
                return "alert %d" % library.gnutls_alert_get(self.session)
            if result == PREMATURE:
                return "fin"
            if result not in (AGAIN, INTERRUPTED, WARNING_ALERT):
                return "reset" if result == -54 else "error %d" % result

    def alert(self, level, number):
        check(library.gnutls_alert_send(self.session, level, number))

    def act(self, act):
        if act.startswith("send:"):
            self.alert(*(int(part) for part in act.split(":")[1:]))
        elif act == "close":
            check(library.gnutls_bye(self.session, 1))
        elif act == "cancel":
            self.alert(1, 90)
            check(library.gnutls_bye(self.session, 1))
        elif act == "reset":
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.stream.close()
            return "reset it"
        if act != "watch":
            try:
                self.stream.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the peer was quicker
        while True:
            came = self.receive()
            if isinstance(came, str):
                return came


def accept(listener, *of_session):
    """The next session. An old server is asked a second time, in another manner."""
    while True:
        stream, _ = listener.accept()
        session = Session(SERVER, stream, *of_session, None)
        try:
            session.handshake()
            return session
        except RuntimeError:
            stream.close()


def connect(peer, *of_session):
    session = Session(CLIENT, socket.create_connection(peer), *of_session)
    session.handshake()
    return session


def one(role, session, act):
    early, act = act.startswith("early:"), act.removeprefix("early:")
    if not early:
        if role == CLIENT:
            session.send(REQUEST)
        came = session.receive()
        if isinstance(came, str):
            return came
        if role == SERVER:
            session.send(ANSWER)
    return session.act(act)


def main(role, address, port, priorities, *rest):
    check(library.gnutls_global_init())
    credentials = ctypes.c_void_p()
    check(library.gnutls_certificate_allocate_credentials(ctypes.byref(credentials)))
    peer = (address, int(port))
    if role == "server":
        certificate, key, *acts = rest
        files = (certificate.encode(), key.encode())
        check(library.gnutls_certificate_set_x509_key_file(credentials, *files, 1))
        listener = socket.create_server(peer)
    else:
        name, *acts = rest
    for act in acts:
        if role == "server":
            session = accept(listener, priorities, credentials)
            came = one(SERVER, session, act)
        else:
            session = connect(peer, priorities, credentials, name)
            came = one(CLIENT, session, act)
        print(came, flush=True)
        session.stream.close()


main(*sys.argv[1:])
