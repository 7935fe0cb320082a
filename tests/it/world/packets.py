"""Packets, byte by byte, and ways to send them as root of a container: for the tests' own scripts."""

import fcntl
import os
import socket
import struct
import sys
import time

MORE = 0x2000  # more fragments follow (RFC 791)


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF & ~total


def ip(source, target, protocol, payload, ident=1, offset=0, options=b""):
    """An IPv4 packet. The offset is in bytes, and has MORE as well."""
    flags = (offset & MORE) | (offset & ~MORE) // 8
    words = 5 + len(options) // 4
    header = lambda check: (
        struct.pack("!BBHHH", 0x40 | words, 0, words * 4 + len(payload), ident, flags)
        + struct.pack("!BBH", 64, protocol, check)
        + socket.inet_aton(source)
        + socket.inet_aton(target)
        + options
    )
    return header(checksum(header(0))) + payload


def udp(source, target, text=b""):
    """A datagram between two ports, without a checksum."""
    return struct.pack("!HHHH", source, target, 8 + len(text), 0) + text


def udp_lite(source, target, addresses):
    """A datagram of UDP-Lite (RFC 3828) whose checksum covers its header."""
    header = lambda check: struct.pack("!HHHH", source, target, 8, check)
    pseudo = b"".join(map(socket.inet_aton, addresses)) + struct.pack("!HH", 136, 12)
    return header(checksum(pseudo + header(0))) + b"text"


def sctp(source, target):
    """The first packet of an association (RFC 9260)."""
    start = struct.pack("!HHI", source, target, 0)
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 1, 65536, 1, 1, 1)
    check = 0xFFFFFFFF
    for byte in start + bytes(4) + chunk:
        check ^= byte
        for _ in range(8):
            check = check >> 1 ^ (0x82F63B78 if check & 1 else 0)
    return start + struct.pack("<I", check ^ 0xFFFFFFFF) + chunk


def tcp(addresses, ports, sequence, acknowledged, flags):
    header = lambda check: struct.pack(
        "!HHIIBBHHH", *ports, sequence, acknowledged, 0x50, flags, 65535, check, 0
    )
    pseudo = b"".join(map(socket.inet_aton, addresses)) + struct.pack("!HH", 6, 20)
    return header(checksum(pseudo + header(0)))


def icmp(kind, code, rest, data=b""):
    message = lambda check: struct.pack("!BBH", kind, code, check) + rest + data
    return message(checksum(message(0)))


def refusal(inner):
    """Nobody waits at that port."""
    return icmp(3, 3, bytes(4), inner)


def too_big(inner):
    """The next link takes packets of 600 bytes and no more."""
    return icmp(3, 4, struct.pack("!HH", 0, 600), inner)


def mac(address):
    """The one of a container, or of the bridge."""
    return b"\x02\x4e" + socket.inet_aton(address)


def ethernet(target, source, kind, payload):
    return (target + source + struct.pack("!H", kind) + payload).ljust(60, b"\0")


def own(interface="veth1"):
    """The own address."""
    request = struct.pack("256s", interface.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        return socket.inet_ntoa(fcntl.ioctl(any_socket, 0x8915, request)[20:24])


def to_host(packet, gateway="10.10.10.1"):
    """The frame that brings an IPv4 packet to the host."""
    return ethernet(mac(gateway), mac(own()), 0x0800, packet)


def arp(operation, sender, target):
    """An ARP packet to the host, which says that the sender's address is here."""
    start = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    says = mac(own()) + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)
    return ethernet(mac(target), mac(own()), 0x0806, start + says)


def wire(interface="veth1"):
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.bind((interface, 0))
    return opened


def in_pieces(source, target, protocol, payload, sizes, ident=77):
    """The fragments of a packet, in pieces of these sizes and one with the rest."""
    pieces, offset = [], 0
    for size in [*sizes, len(payload)]:
        piece = payload[offset : offset + size]
        more = MORE if offset + size < len(payload) else 0
        pieces.append(ip(source, target, protocol, piece, ident, offset | more))
        offset += size
    return pieces
