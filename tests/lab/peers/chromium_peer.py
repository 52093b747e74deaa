"""Debian's Chromium, without a screen, as a client.

    chromium_peer.py HOME ADDRESS [ARGUMENT...]
        jobs on standard input, a line each: an https address; answers on standard output:
        "ok PROTOCOL ISSUER", ISSUER being the common name of who signed the certificate that was shown,
        or "failed WORDS".

Whatever name an address has, it is at ADDRESS. HOME: a directory in which `.pki/nssdb` says what is
trusted besides Chromium's own list; its profile goes there too. One browser for all jobs, driven by its
DevTools protocol over two pipes. More ARGUMENTs are Chromium's.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys

SWITCHES = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-pings",
    "--remote-debugging-pipe",
]


PR_SET_PDEATHSIG = 1


class Browser:
    """Its DevTools protocol: JSON, a zero byte after each message."""

    def __init__(self, home, address, arguments):
        command = ["/usr/bin/chromium", *SWITCHES, "--user-data-dir=%s/profile-%d" % (home, os.getpid())]
        command += ["--host-resolver-rules=MAP * %s" % address, *arguments, "about:blank"]
        # It reads from descriptor 3 and writes to 4.
        theirs, mine = os.pipe(), os.pipe()
        script = 'exec 3<&%d 4>&%d; exec "$@"' % (theirs[0], mine[1])
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", script, "chromium", *command],
            env=dict(os.environ, HOME=home),
            pass_fds=(theirs[0], mine[1]),
            stdin=subprocess.DEVNULL,
            # It ends with us, however we end.
            preexec_fn=lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
            stdout=sys.stderr,
        )
        os.close(theirs[0])
        os.close(mine[1])
        self.output = os.fdopen(theirs[1], "wb", buffering=0)
        self.input = mine[0]
        self.unread = b""
        self.last = 0
        self.session = None
        self.events = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Network.enable")
        # Else what is in its cache would be shown without a session.
        self.ask("Network.setCacheDisabled", cacheDisabled=True)

    def hear(self):
        while b"\0" not in self.unread:
            part = os.read(self.input, 1 << 16)
            if not part:
                raise EOFError("Chromium ended")
            self.unread += part
        message, _, self.unread = self.unread.partition(b"\0")
        return json.loads(message)

    def ask(self, method, **params):
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.output.write(json.dumps(message).encode() + b"\0")
        while True:
            heard = self.hear()
            if heard.get("id") == self.last:
                if "error" in heard:
                    raise ValueError(heard["error"]["message"])
                return heard["result"]
            self.events.append(heard)

    def visit(self, address):
        self.events.clear()
        went = self.ask("Page.navigate", url=address)
        if "errorText" in went:
            return "failed " + went["errorText"]
        while True:
            for event in self.events:
                told = event.get("params", {})
                if event["method"] == "Network.responseReceived" and told["type"] == "Document":
                    return self.seen(told["response"])
            self.events[:] = [self.hear()]

    @staticmethod
    def seen(response):
        return "ok %s %s" % (response["protocol"], response["securityDetails"]["issuer"])


def main(home, address, *arguments):
    browser = Browser(home, address, arguments)
    for line in sys.stdin:
        print(browser.visit(line.strip()), flush=True)
    browser.ask("Browser.close")
    browser.process.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
