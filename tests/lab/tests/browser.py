"""A server that says it speaks HTTP/3, and does not: HTTPS on a port, and on the same port of UDP nobody
who answers.

    browser.py HOST PORT CHAIN KEY
        "ready", then a line for each datagram that comes: its length
"""

import http.server
import socket
import ssl
import sys
import threading


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Alt-Svc", 'h3=":%d"; ma=3600' % self.server.server_port)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "3")
        # So that each page makes a connection.
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, *arguments):
        pass


def main(host, port, chain, key):
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((host, int(port)))
    server = http.server.ThreadingHTTPServer((host, int(port)), Page)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    while True:
        print(len(datagrams.recv(2000)), flush=True)


main(*sys.argv[1:])
