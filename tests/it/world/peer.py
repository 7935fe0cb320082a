"""A peer for the tests, in whatever network namespace it is started.

  peer.py serve WORD PORT...             answers every TCP connection and UDP packet to the ports
                                         with a line: WORD and the address that it came from
  peer.py ask tcp|udp ADDRESS PORT       prints that line, or "nothing"
  peer.py hold tcp|udp ADDRESS PORT      prints the first answer, then asks again over the same
                                         connection for each line of standard input
"""

import socket
import sys
import threading

PATIENCE = 2.0


def tcp(word, listener):
    while True:
        connection, sender = listener.accept()
        threading.Thread(target=talk, args=(word, connection, sender), daemon=True).start()


def talk(word, connection, sender):
    line = f"{word} {sender[0]}\n".encode()
    try:
        connection.sendall(line)
        while connection.recv(64):
            connection.sendall(line)
    except OSError:
        pass


def udp(word, listener):
    while True:
        _, sender = listener.recvfrom(64)
        listener.sendto(f"{word} {sender[0]}\n".encode(), sender)


def serve(word, ports):
    for port in map(int, ports):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        listener.listen(64)
        threading.Thread(target=tcp, args=(word, listener), daemon=True).start()
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind(("0.0.0.0", port))
        threading.Thread(target=udp, args=(word, listener), daemon=True).start()
    print("serving", flush=True)
    threading.Event().wait()


def connected(protocol, address, port):
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    peer = socket.socket(socket.AF_INET, kind)
    peer.settimeout(PATIENCE)
    peer.connect((address, int(port)))
    return peer


def answer(peer, ask):
    try:
        if ask:
            peer.sendall(b"?")
        return peer.recv(64).decode().strip() or "nothing"
    except OSError:
        return "nothing"


def ask(protocol, address, port):
    try:
        peer = connected(protocol, address, port)
    except OSError:
        print("nothing")
        return
    print(answer(peer, protocol == "udp"))


def hold(protocol, address, port):
    peer = connected(protocol, address, port)
    print(answer(peer, protocol == "udp"), flush=True)
    for _ in sys.stdin:
        print(answer(peer, True), flush=True)


what, arguments = sys.argv[1], sys.argv[2:]
if what == "serve":
    serve(arguments[0], arguments[1:])
elif what == "ask":
    ask(*arguments)
else:
    hold(*arguments)
