"""Listens at /dev/log, and writes a line of JSON into the file that is given for each datagram: its
text, and the process and the user that the kernel says have sent it."""

import json
import os
import socket
import struct
import sys

log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
log.bind(sys.argv[2])
os.chmod(sys.argv[2], 0o666)
with open(sys.argv[1], "a") as received:
    print(os.getpid(), flush=True)
    while True:
        text, ancillary, _, _ = log.recvmsg(1 << 16, 1024)
        pid, uid, _ = struct.unpack("iii", ancillary[0][2])
        print(json.dumps([text.decode(), pid, uid]), file=received, flush=True)
