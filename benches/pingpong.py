"""Round trips of one byte: `serve PORT` answers over TCP and UDP, `ask tcp|udp ADDRESS PORT COUNT`
prints the median in microseconds."""

import select
import socket
import statistics
import sys
import time


def serve(port):
    listener = socket.create_server(('0.0.0.0', port))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(('0.0.0.0', port))
    ready = [listener, datagrams]
    while True:
        for one in select.select(ready, [], [])[0]:
            if one is listener:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                ready.append(connection)
            elif one is datagrams:
                data, sender = datagrams.recvfrom(64)
                datagrams.sendto(data, sender)
            elif data := one.recv(64):
                one.sendall(data)
            else:
                ready.remove(one)
                one.close()


def ask(protocol, address, port, count):
    kind = socket.SOCK_STREAM if protocol == 'tcp' else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as one:
        one.settimeout(2)
        one.connect((address, port))
        if protocol == 'tcp':
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        took = []
        for _ in range(count):
            begin = time.perf_counter()
            one.send(b'?')
            one.recv(64)
            took.append(time.perf_counter() - begin)
    # The first find the way.
    print(statistics.median(took[count // 10:]) * 1e6)


if sys.argv[1] == 'serve':
    serve(int(sys.argv[2]))
else:
    ask(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
