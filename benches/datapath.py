"""What goes through the veth pair: throughput and round trips, from a container to a remote host
through NAT, in through a published port, and from container to container."""

import json
import os
import shlex
import time

from attaching import in_turn
from contenders import CNI, CniBridge, Netsetgo
from figures import Series
from world import ALICE, HOST, REMOTE, ROOT, Failed

PYTHON = '/usr/bin/python3'
# Where the servers listen, iperf3's and that of the round trips.
BULK, ECHO = 5201, 5202
# What is added to that where it is published.
AT = 3000
# The processors of the server and of the client of round trips. Whether both use the same one makes
# more difference than any network. Everything else runs on any processor.
CPUS = sorted(os.sched_getaffinity(0))
ANSWERING = ['taskset', '-c', str(CPUS[0])]
ASKING = f'taskset -c {CPUS[-1]}'


class Path:
    """A way of packets. A way in is an address and what to add to the ports."""

    program = None
    own_host = None

    def __init__(self, title):
        self.title = title
        self.way_in = (HOST, AT)
        self.between = None

    def missing(self):
        return self.program and not os.path.exists(self.program)

    def prepare(self, world, remote):
        self.world, self.remote = world, remote
        [self.pid] = world.containers(1)
        self.connect()
        self.serve(self.pid)

    def connect(self):
        raise NotImplementedError

    def serve(self, pid):
        """Starts the servers in the container, or on the host for `None`."""
        enter = ['nsenter', '-t', str(pid), '-n', '--'] if pid else []
        if pid:
            self.world.sh(f'nsenter -t {pid} -n ip link set lo up')
        self.world.start([*enter, 'iperf3', '-s', '-p', str(BULK)])
        self.world.start([*ANSWERING, *enter, PYTHON, '/run/pingpong.py', 'serve', str(ECHO)])

    def ways(self):
        """From which process, to which address, and what to add to the ports."""
        yield 'out', self.pid, REMOTE, 0
        yield 'in', self.remote, *self.way_in
        if self.between:
            yield 'between', self.between[0], self.between[1], 0

    def measure(self, pid, address, port, what):
        enter = f'nsenter -t {pid} -n -- ' if pid else ''
        if what in ('tcp', 'udp'):
            # Over TCP a user-space stack needs a while to reach its speed.
            more = '-t 1 -u -b 0 -l 1400' if what == 'udp' else '-t 2'
            said = json.loads(self.world.sh(
                f'{enter}timeout 15 iperf3 -J {more} -c {address} -p {BULK + port}'))
            end = said['end']
            if what == 'tcp':
                return end['sum_received']['bits_per_second'] / 1e9
            # What arrived.
            total = end['sum']
            arrived = total['packets'] - total['lost_packets']
            return arrived * 1400 * 8 / total['seconds'] / 1e9
        protocol = what.removesuffix('-trip')
        return float(self.world.sh(f'{ASKING} {enter}timeout 15 {PYTHON} /run/pingpong.py '
                                   f'ask {protocol} {address} {ECHO + port} 2000'))


class Direct(Path):
    own_host = 'plain'

    def connect(self):
        self.world.kill([self.pid])
        self.pid = None
        self.way_in = (HOST, 0)


class ByNetsetgo(Path):
    def connect(self):
        options = [word for port in (BULK, ECHO) for protocol in ('tcp', 'udp')
                   for word in ('-publish', f'{port + AT}:{port}/{protocol}')]
        first, second = Netsetgo('', options=options), Netsetgo('')
        for one in (first, second):
            one.prepare(self.world)
        first.attach(self.pid)
        [other] = self.world.containers(1)
        second.attach(other)
        self.between = (other, address_of(self.world, self.pid))


class ByHand(Path):
    def connect(self):
        [other] = self.world.containers(1)
        script = f'''
            ip link add br0 type bridge; ip address add 10.30.0.1/24 dev br0; ip link set br0 up
            echo 1 >/proc/sys/net/ipv4/ip_forward
            nft -f - <<'END'
            table ip hand {{
                chain in {{
                    type nat hook prerouting priority dstnat
                    fib daddr type local tcp dport {BULK + AT} dnat to 10.30.0.2:{BULK}
                    fib daddr type local udp dport {BULK + AT} dnat to 10.30.0.2:{BULK}
                    fib daddr type local tcp dport {ECHO + AT} dnat to 10.30.0.2:{ECHO}
                    fib daddr type local udp dport {ECHO + AT} dnat to 10.30.0.2:{ECHO}
                }}
                chain out {{
                    type nat hook postrouting priority srcnat
                    ip saddr 10.30.0.0/24 oifname != "br0" masquerade
                }}
            }}
END'''
        for number, pid in ((2, self.pid), (3, other)):
            script += f'''
            ip link add hand{number} master br0 up type veth peer name veth1 netns {pid}
            nsenter -t {pid} -n sh -c 'ip link set veth1 up
                ip address add 10.30.0.{number}/24 dev veth1
                ip route add default via 10.30.0.1' '''
        self.world.sh(script)
        self.between = (other, '10.30.0.2')


class ByCni(Path):
    program = f'{CNI}/portmap'

    def connect(self):
        cni = CniBridge('', True)
        cni.prepare(self.world)
        [other] = self.world.containers(1)
        cni.attach(other)
        config, env = cni.extras(self.pid)
        words = ' '.join(f'{key}={shlex.quote(value)}' for key, value in env.items())
        result = json.loads(self.world.sh(f'{words} {cni.program} <{config}'))
        mappings = [{'hostPort': port + AT, 'containerPort': port, 'protocol': protocol}
                    for port in (BULK, ECHO) for protocol in ('tcp', 'udp')]
        self.world.write('/run/portmap.json', json.dumps({
            'cniVersion': '1.0.0', 'name': 'masq', 'type': 'portmap', 'snat': True,
            'capabilities': {'portMappings': True},
            'runtimeConfig': {'portMappings': mappings}, 'prevResult': result}))
        self.world.sh(f'{words} {self.program} </run/portmap.json')
        self.between = (other, address_of(self.world, self.pid))


class BySlirp(Path):
    program = '/usr/bin/slirp4netns'
    own_host = 'plain'

    def __init__(self, title, mtu, at):
        super().__init__(title)
        self.mtu, self.way_in = mtu, (HOST, at)

    def connect(self):
        api = f'/tmp/slirp-{self.mtu}'
        self.world.start([self.program, '--configure', f'--mtu={self.mtu}', f'--api-socket={api}',
                          str(self.pid), 'tap0'], ALICE)
        until_routed(self.world, self.pid)
        for port in (BULK, ECHO):
            for protocol in ('tcp', 'udp'):
                request = json.dumps({'execute': 'add_hostfwd', 'arguments': {
                    'proto': protocol, 'host_addr': '0.0.0.0', 'host_port': port + self.way_in[1],
                    'guest_addr': '10.0.2.100', 'guest_port': port}})
                said = self.world.sh(f'''{PYTHON} - <<'END'
import socket
api = socket.socket(socket.AF_UNIX)
api.connect({api!r})
api.sendall({request.encode()!r})
api.shutdown(socket.SHUT_WR)
print(api.recv(1000).decode())
END''')
                if 'error' in said:
                    raise Failed(f'slirp4netns: {said}')


class ByPasta(Path):
    program = '/usr/bin/pasta'
    own_host = 'plain'

    def __init__(self, title, mtu, at):
        super().__init__(title)
        self.mtu, self.way_in = mtu, (HOST, at)

    def connect(self):
        ports = ','.join(f'{port + self.way_in[1]}:{port}' for port in (BULK, ECHO))
        # The remote host is the gateway here. Without this it would be taken for the host itself.
        self.world.start([self.program, '-f', '--config-net', '--no-map-gw', '-4', '-m',
                          str(self.mtu), '-t', ports, '-u', ports, '-T', 'none', '-U', 'none',
                          str(self.pid)], ALICE)
        until_routed(self.world, self.pid)


def address_of(world, pid):
    seen = json.loads(world.sh(f'nsenter -t {pid} -n ip -json -4 address show dev veth1'))
    return seen[0]['addr_info'][0]['local']


def until_routed(world, pid):
    for _ in range(100):
        if world.sh(f'nsenter -t {pid} -n ip route show default').strip():
            return
        time.sleep(0.05)
    raise Failed('it gave the container no route: ' +
                 world.sh('cat /tmp/complaints-of-* 2>/dev/null | tail -n 3'))


class DataPath:
    WAYS = [('out', 'container to remote host'),
            ('in', 'remote host to container, by a published port'),
            ('between', 'container to container')]
    WHATS = ['tcp', 'udp', 'tcp-trip', 'udp-trip']

    def __init__(self, kit, runs):
        self.series, self.missing, self.titles = {}, [], {}
        if not os.path.exists('/usr/bin/iperf3'):
            self.missing.append('iperf3')
            return
        paths, hosts = [], {}
        for key, path in [
                ('host', Direct('the host itself, no container')),
                ('netsetgo', ByNetsetgo('**netsetgo**')),
                ('hand', ByHand('the same wiring by hand')),
                ('cni', ByCni('CNI bridge, ipMasq, portmap')),
                ('slirp', BySlirp('slirp4netns, MTU 1500 (default)', 1500, AT)),
                ('slirp-65520', BySlirp('slirp4netns, MTU 65520', 65520, AT + 100)),
                ('pasta-1500', ByPasta('pasta, MTU 1500', 1500, AT + 200)),
                ('pasta', ByPasta('pasta, MTU 65520 (default)', 65520, AT + 300))]:
            self.titles[key] = path.title
            if path.missing():
                self.missing.append(path.title)
                continue
            try:
                host = path.own_host or key
                if host not in hosts:
                    hosts[host] = self.host(kit)
                path.prepare(*hosts[host])
                paths.append((key, path))
            except Failed as error:
                for what in self.WHATS:
                    self.series[key, 'out', what] = Series(path.title)
                    self.series[key, 'out', what].fail(error)
        time.sleep(0.5)
        for run in range(runs):
            for key, path in in_turn(paths, run):
                for way, pid, address, port in path.ways():
                    for what in self.WHATS:
                        series = self.series.setdefault((key, way, what), Series(path.title))
                        try:
                            series.add(path.measure(pid, address, port, what))
                        except Failed as error:
                            series.fail(error)

    @staticmethod
    def host(kit):
        world = kit.world(internet=False)
        remote = world.internet()
        # Some machines reserve it for root, and this is not what is measured.
        world.sh("""if [ -e /dev/net/tun ]; then
            mknod -m 666 /run/tun c 10 200; mount --bind /run/tun /dev/net/tun
        fi""")
        world.write('/run/pingpong.py', (ROOT / 'benches/pingpong.py').read_text())
        enter = ['nsenter', '-t', str(remote), '-n', '--']
        world.start([*enter, 'iperf3', '-s', '-p', str(BULK)])
        world.start([*ANSWERING, *enter, PYTHON, '/run/pingpong.py', 'serve', str(ECHO)])
        return world, remote
