"""An end of TLS that stops reading, or says what its peer does not take, and then is gone by a reset.

    gone.py client ADDRESS NAME VERSION reset|half-close|deaf|slow
    gone.py server ADDRESS CERTIFICATE KEY VERSION reset|deaf

`reset` sends until nothing is taken any more, and resets; `half-close` says its last, and resets a little
later; `deaf` reads nothing, for ever; `slow` reads nothing until its server is gone, then all, and says
something after each read. Says "at PORT" (of the client), "resets" before it does, how much of what it said was
"taken", and how much it "got".
"""

import fcntl
import socket
import ssl
import struct
import sys
import time

VERSIONS = {"1.1": ssl.TLSVersion.TLSv1_1, "1.3": ssl.TLSVersion.TLSv1_3}


def context(purpose, version):
    made = ssl.SSLContext(purpose)
    made.set_ciphers("ALL:@SECLEVEL=0")
    made.minimum_version = made.maximum_version = VERSIONS[version]
    return made


def say(text):
    print(text, flush=True)


def reset_at_exit(stream):
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def send_until_full(tls):
    tls.settimeout(2)
    sent = 0
    try:
        while True:
            sent += tls.send(b"x" * 16384)
    except (TimeoutError, ssl.SSLWantWriteError):
        SIOCOUTQ = 0x5411
        waiting = struct.unpack("i", fcntl.ioctl(tls, SIOCOUTQ, b"\0" * 4))[0]
        say(f"taken {sent - waiting}")
        say("resets")


def read_and_speak(tls):
    got = 0
    try:
        while came := tls.recv(16384):
            got += len(came)
            try:
                tls.send(b"y")
            except OSError:
                pass
    except OSError:
        pass
    say(f"got {got}")


def client(address, name, version, act):
    made = context(ssl.PROTOCOL_TLS_CLIENT, version)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    stream = socket.create_connection((address, 443), timeout=20)
    reset_at_exit(stream)
    say(f"at {stream.getsockname()[1]}")
    tls = made.wrap_socket(stream, server_hostname=name)
    if act == "deaf":
        time.sleep(1000000)
    elif act == "slow":
        time.sleep(5)
        read_and_speak(tls)
    elif act == "half-close":
        tls.send(b"last words")
        socket.socket.shutdown(tls, socket.SHUT_WR)
        time.sleep(1)
        say("resets")
    else:
        send_until_full(tls)


def server(address, certificate, key, version, act):
    made = context(ssl.PROTOCOL_TLS_SERVER, version)
    made.load_cert_chain(certificate, key)
    with socket.create_server((address, 443)) as listener:
        while True:
            # A connection that is given up for another is no session.
            try:
                tls = made.wrap_socket(listener.accept()[0], server_side=True)
            except OSError:
                continue
            if act == "deaf":
                time.sleep(1000000)
            reset_at_exit(tls)
            send_until_full(tls)
            tls.close()


if __name__ == "__main__":
    {"client": client, "server": server}[sys.argv[1]](*sys.argv[2:])
