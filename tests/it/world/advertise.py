"""Sends an IPv6 router advertisement (RFC 4861) by veth1, to the Ethernet address given."""
import socket
import struct
import sys

destination = bytes.fromhex(sys.argv[1].replace(":", ""))
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("veth1", 0))
source = raw.getsockname()[4]
router = socket.inet_pton(socket.AF_INET6, "fe80::1")
everybody = socket.inet_pton(socket.AF_INET6, "ff02::1")


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def advertisement(sum16):
    # A router for half an hour, and its link-layer address.
    return struct.pack("!BBHBBHII", 134, 0, sum16, 64, 0, 1800, 0, 0) + b"\x01\x01" + source


length = len(advertisement(0))
pseudo = router + everybody + struct.pack("!I3xB", length, 58)
body = advertisement(checksum(pseudo + advertisement(0)))
header = struct.pack("!IHBB", 6 << 28, length, 58, 255) + router + everybody
raw.send(destination + source + b"\x86\xdd" + header + body)
