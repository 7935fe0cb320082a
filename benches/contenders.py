"""The ways to give a container a network that benches/run compares, each on a host of its own kind.

A contender says what it needs, prepares its host, and gives the command that attaches a container.
"""

import json
import os

from world import ALICE, Failed

NETSETGO, FLOOR = '/usr/local/bin/netsetgo', '/usr/local/bin/floor'
CNI = '/usr/lib/cni'
NETAVARK = '/usr/lib/podman/netavark'
LXC_USER_NIC = '/usr/libexec/lxc/lxc-user-nic'

# A program, its package in Debian 12, and what is left out without it.
PROGRAMS = [
    ('/usr/sbin/nft', 'nftables', 'everything behind NAT'),
    ('/usr/sbin/iptables', 'iptables', 'CNI bridge with ipMasq, netavark'),
    (f'{CNI}/bridge', 'containernetworking-plugins', 'CNI bridge'),
    (NETAVARK, 'netavark', 'netavark'),
    (LXC_USER_NIC, 'liblxc-common', 'lxc-user-nic'),
    ('/usr/bin/slirp4netns', 'slirp4netns', 'slirp4netns'),
    ('/usr/bin/pasta', 'passt', 'pasta'),
    ('/usr/bin/iperf3', 'iperf3', 'throughput'),
    ('/usr/bin/strace', 'strace', 'peak memory, system calls, phases'),
    ('/usr/bin/perf', 'linux-perf', 'phases'),
]


class Contender:
    """One way to attach."""

    program = None
    policy = None
    uid = 0
    wired = True

    def __init__(self, title):
        self.title = title
        self.world = None

    def missing(self):
        return self.program and not os.path.exists(self.program)

    def prepare(self, world):
        self.world = world

    def command(self, pid, number):
        """The command line that attaches the container `pid`, the `number`th."""
        raise NotImplementedError

    def extras(self, pid):
        """Standard input and environment of the command."""
        return None, {}

    def attach(self, pid, number=0):
        """Attaches it. Gives the milliseconds that took."""
        if self.policy:
            self.world.write('/etc/netsetgo.toml', self.policy)
        return self.world.time(self.command(pid, number), self.uid, *self.extras(pid))

    def undo(self, pid, number=0):
        """Deletes the veth pair again."""
        self.world.sh(f'nsenter -t {pid} -n ip link delete veth1')


class Nothing(Contender):
    uid, wired = ALICE, False

    def command(self, pid, number):
        return ['/bin/true']

    def undo(self, pid, number=0):
        pass


class Netsetgo(Contender):
    uid = ALICE

    def __init__(self, title, nat=True, options=()):
        super().__init__(title)
        self.options = list(options)
        self.policy = (f'[network]\naddress = "10.10.8.1/22"\nnat = {str(nat).lower()}\n\n'
                       f'[[allow]]\nuid = {ALICE}\nlinks = 1023\npublish = ["8000-9999"]\n')

    def command(self, pid, number):
        return [NETSETGO, '-pid', str(pid), *self.options]

    def undo(self, pid, number=0):
        super().undo(pid)
        if self.options:
            # Taken out before anything is measured, and the firewall is seen to be whole again.
            self.world.sh(f'{NETSETGO} -prune')
            [pid] = self.world.containers(1)
            self.world.sh(f'{NETSETGO} -pid {pid}')
            super().undo(pid)


class Heir(Netsetgo):
    """Gets an address whose last container had published a port, which it has to take out."""

    def __init__(self, title, options):
        super().__init__(title)
        self.former = Netsetgo('', options=options)

    def prepare(self, world):
        super().prepare(world)
        self.former.prepare(world)

    def attach(self, pid, number=0):
        [dead] = self.world.containers(1)
        self.former.attach(dead)
        Contender.undo(self.former, dead)
        return super().attach(pid, number)


class OnOurBridge(Contender):
    """Works on a bridge like that of netsetgo, which exists or is made as an admin would make it."""

    def prepare(self, world):
        super().prepare(world)
        world.sh('''
            if ! ip link show dev brg0 >/dev/null 2>&1; then
                ip link add brg0 address 02:4e:0a:0a:08:01 type bridge mcast_snooping 0
                ip address add 10.10.8.1/22 dev brg0; ip link set brg0 up
            fi''')
        self.bridge = world.index('brg0')

    # Beyond those that netsetgo has given by then.
    FIRST = (10 << 24) + (10 << 16) + (8 << 8) + 2

    def address(self, number):
        return '.'.join(map(str, (self.FIRST + number).to_bytes(4, 'big')))


class Floor(OnOurBridge):
    uid = ALICE

    def __init__(self, title, *options):
        super().__init__(title)
        self.options = options

    def command(self, pid, number):
        return [FLOOR, str(pid), str(self.bridge), f'floor{number}', f'{self.address(number)}/22',
                '10.10.8.1', *self.options]


class ByIp(OnOurBridge):
    """The veth pair alone, by the commands that people type."""

    SCRIPT = '''
ip link add "by-ip$2" master brg0 up type veth peer name veth1 netns "$1"
nsenter -t "$1" -n ip link set veth1 up
nsenter -t "$1" -n ip address add "$3/22" dev veth1
nsenter -t "$1" -n ip route add default via 10.10.8.1
'''

    def prepare(self, world):
        super().prepare(world)
        world.write('/run/by-ip.sh', 'set -e\n' + self.SCRIPT)

    def command(self, pid, number):
        return ['/bin/sh', '/run/by-ip.sh', str(pid), str(number), self.address(number)]


class CniBridge(Contender):
    program = f'{CNI}/bridge'

    def __init__(self, title, masquerade):
        super().__init__(title)
        self.name = 'masq' if masquerade else 'plain'
        self.config = {
            'cniVersion': '1.0.0', 'name': self.name, 'type': 'bridge',
            'bridge': f'cni-{self.name}', 'isGateway': True, 'ipMasq': masquerade,
            'ipam': {'type': 'host-local', 'dataDir': '/run/cni',
                     'ranges': [[{'subnet': f'10.2{int(masquerade)}.0.0/22'}]],
                     'routes': [{'dst': '0.0.0.0/0'}]}}

    def prepare(self, world):
        super().prepare(world)
        world.write(f'/run/{self.name}.json', json.dumps(self.config))

    def command(self, pid, number):
        return [self.program]

    def extras(self, pid, what='ADD'):
        return f'/run/{self.name}.json', {
            'CNI_COMMAND': what, 'CNI_CONTAINERID': f'container{pid}', 'CNI_IFNAME': 'veth1',
            'CNI_NETNS': f'/proc/{pid}/ns/net', 'CNI_PATH': CNI}

    def undo(self, pid, number=0):
        self.world.time(self.command(pid, number), self.uid, *self.extras(pid, 'DEL'))


class Netavark(Contender):
    program = NETAVARK

    def text(self, pid):
        network = {
            'name': 'podman', 'id': f'{1:064x}',
            'driver': 'bridge', 'network_interface': 'podman0', 'ipv6_enabled': False,
            'created': '2026-01-01T00:00:00Z', 'internal': False, 'dns_enabled': False,
            'subnets': [{'subnet': '10.88.0.0/16', 'gateway': '10.88.0.1'}],
            'ipam_options': {'driver': 'host-local'}}
        return json.dumps({
            'container_id': f'{pid:064x}', 'container_name': f'container{pid}',
            'networks': {'podman': {'interface_name': 'veth1', 'static_ips': ['10.88.0.2']}},
            'network_info': {'podman': network}})

    def command(self, pid, number, what='setup'):
        return [self.program, '--config', '/run/netavark', what, f'/proc/{pid}/ns/net']

    def extras(self, pid):
        return f'/run/netavark-{pid}.json', {}

    def attach(self, pid, number=0):
        self.world.write(f'/run/netavark-{pid}.json', self.text(pid))
        return super().attach(pid, number)

    def undo(self, pid, number=0):
        self.world.time(self.command(pid, number, 'teardown'), 0, *self.extras(pid))


class LxcUserNic(Contender):
    program = LXC_USER_NIC
    uid = ALICE

    def prepare(self, world):
        super().prepare(world)
        world.write('/etc/lxc/lxc-usernet', 'alice veth lxcbr0 1000\n')
        # It looks in /sys whether that is a bridge, so this has to be that of the world's network.
        world.sh('''
            mount -t sysfs sysfs /sys; mkdir -p /run/lxc
            ip link add lxcbr0 type bridge; ip link set lxcbr0 up''')

    def command(self, pid, number):
        return [self.program, 'create', '/tmp', f'container{pid}', str(pid), 'veth', 'lxcbr0',
                'veth1']


def sample(contender, pids, number, into):
    """One measured attach. The container is not used again."""
    pid = pids.pop()
    try:
        into.add(contender.attach(pid, number))
    except Failed as error:
        into.fail(error)
    try:
        contender.undo(pid, number)
    except Failed as error:
        if contender.wired and not into.failures:
            into.fail(error)


