"""An end that speaks QUIC, by aioquic: a server that sends each stream back, and a client that says on
one what it got, and for how long it waits at most.

  quic_peer.py server ADDRESS PORT CERTIFICATE KEY
  quic_peer.py client ADDRESS PORT NAME TRUST PROTOCOLS SECONDS

A hello with many protocols is longer than a datagram."""

import asyncio
import ssl
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamDataReceived


def protocols(count):
    return ["echo"] + [f"{number:0200}" for number in range(count)]


class Echo(QuicConnectionProtocol):
    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived):
            self._quic.send_stream_data(event.stream_id, event.data, event.end_stream)
            self.transmit()


async def server(address, port, certificate, key):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["echo"])
    configuration.load_cert_chain(certificate, key)
    await serve(address, int(port), configuration=configuration, create_protocol=Echo)
    print("ready", flush=True)
    await asyncio.Future()


async def client(address, port, name, trust, count, seconds):
    configuration = QuicConfiguration(
        alpn_protocols=protocols(int(count)), server_name=name, verify_mode=ssl.CERT_REQUIRED
    )
    configuration.load_verify_locations(trust)
    said = b"weir " * 20_000

    async def talk():
        async with connect(address, int(port), configuration=configuration) as connection:
            reader, writer = await connection.create_stream()
            writer.write(said)
            writer.write_eof()
            heard = await reader.read()
            print("answered" if heard == said else "other bytes came")

    try:
        await asyncio.wait_for(talk(), float(seconds))
    except (TimeoutError, ConnectionError) as error:
        print(f"no answer: {type(error).__name__}")


asyncio.run({"server": server, "client": client}[sys.argv[1]](*sys.argv[2:]))
