"""An end that speaks QUIC, by aioquic: a server that sends each stream back, and says when a connection begins;
and a client that says on one what it got, and for how long it waits at most.

  quic_peer.py server ADDRESS PORT CERTIFICATE KEY
  quic_peer.py client ADDRESS PORT NAME TRUST PROTOCOLS SECONDS [WHEN NAME FLAW]...

A hello with many protocols is longer than a datagram. What comes behind are decoys, from the address and port
of the connection: `before` it or `amid` it (between two streams); the first datagram of a connection to that
name, or, for `-`, of a version that nobody knows; with a `small-ttl` of one, with a `wrong-checksum`, or with
`none`."""

import asyncio
import os
import socket
import ssl
import struct
import sys
import time

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived


def protocols(count):
    return ["echo"] + [f"{number:0200}" for number in range(count)]


class Echo(QuicConnectionProtocol):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        print("a connection begins", flush=True)

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


def ones_complement_sum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def first_datagram(name):
    if name == "-":
        return b"\xc0\x5a\x5b\x5c\x5d\x08" + os.urandom(8) + b"\x00" + os.urandom(1185)
    connection = QuicConnection(
        configuration=QuicConfiguration(alpn_protocols=protocols(0), server_name=name)
    )
    connection.connect(("192.0.2.1", 443), now=time.monotonic())
    return connection.datagrams_to_send(now=time.monotonic())[0][0]


def send_decoy(source, destination, name, flaw):
    """The kernel fills in the checksum of IPv4's header."""
    payload = first_datagram(name)
    payload += b"\x00" * (len(payload) % 2)
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    head = struct.pack("!HHH", source[1], destination[1], 8 + len(payload))
    pseudo = addresses + struct.pack("!HH", 17, 8 + len(payload))
    checksum = 0xFFFF - ones_complement_sum(pseudo + head + b"\x00\x00" + payload)
    if flaw == "wrong-checksum":
        checksum ^= 1
    udp = head + struct.pack("!H", checksum) + payload
    ttl = 1 if flaw == "small-ttl" else 64
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, ttl, 17, 0) + addresses
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(ip + udp, destination)


def free_source(destination):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(destination)
        return probe.getsockname()


async def client(address, port, name, trust, count, seconds, *decoys):
    destination = (address, int(port))
    source = free_source(destination)

    async def send_decoys(now):
        for when, name, flaw in zip(decoys[::3], decoys[1::3], decoys[2::3]):
            if when == now:
                send_decoy(source, destination, name, flaw)
        # So that what they do is done.
        await asyncio.sleep(0.3 if decoys else 0)

    configuration = QuicConfiguration(
        alpn_protocols=protocols(int(count)), server_name=name, verify_mode=ssl.CERT_REQUIRED
    )
    configuration.load_verify_locations(trust)
    said = b"weir " * 20_000

    async def echoes(connection):
        reader, writer = await connection.create_stream()
        writer.write(said)
        writer.write_eof()
        return await reader.read() == said

    async def talk():
        await send_decoys("before")
        async with connect(
            address, int(port), configuration=configuration, local_port=source[1]
        ) as connection:
            right = await echoes(connection)
            if "amid" in decoys:
                await send_decoys("amid")
                right &= await echoes(connection)
            print("answered" if right else "other bytes came")

    try:
        await asyncio.wait_for(talk(), float(seconds))
    except (TimeoutError, ConnectionError) as error:
        print(f"no answer: {type(error).__name__}")


asyncio.run({"server": server, "client": client}[sys.argv[1]](*sys.argv[2:]))
