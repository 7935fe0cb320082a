"""Frames as they are, in whatever network namespace it is started.

  frames.py send INTERFACE HEX...         sends each
  frames.py hear INTERFACE... -- PATIENCE prints "listening", then once the number of each frame that is
                                          heard there, until one says that it was the last, or standard
                                          input ends

A frame that is to be heard has somewhere in it "frame number N." or "frame number last."
"""

import re
import select
import socket
import sys
import time

ETH_P_ALL = 3
NUMBER = re.compile(rb"frame number (\w+)\.")


def opened(interface):
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    raw.bind((interface, ETH_P_ALL))
    return raw


def send(interface, frames):
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind((interface, 0))
    for frame in frames:
        raw.send(bytes.fromhex(frame))
        # A listener has room for few at once.
        time.sleep(0.001)


def hear(interfaces, patience):
    raws = [opened(interface) for interface in interfaces]
    print("listening", flush=True)
    heard, end = set(), time.monotonic() + patience
    sources = [*raws, sys.stdin]
    while time.monotonic() < end:
        for raw in select.select(sources, [], [], 0.1)[0]:
            if raw is sys.stdin:
                end = min(end, time.monotonic() + 0.5)
                sources = raws
                continue
            number = NUMBER.search(raw.recv(65535))
            if number is None:
                continue
            if number[1] == b"last":
                # Those that another processor has been at may come a moment later.
                end = min(end, time.monotonic() + 0.2)
            heard.add(number[1].decode())
    print(" ".join(sorted(heard)), flush=True)


what, arguments = sys.argv[1], sys.argv[2:]
if what == "send":
    send(arguments[0], arguments[1:])
else:
    hear(arguments[:-2], float(arguments[-1]))
