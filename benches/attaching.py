"""How long it takes to attach a container: one, the thousandth, and many at once."""

from contenders import (CniBridge, ByIp, Floor, Heir, LxcUserNic, Netavark, Netsetgo, Nothing, sample)
from figures import Series
from world import Failed

PUBLISH = ['-publish', '8000:80']


def in_turn(all_of_them, run):
    """All of them. Each run begins with the next one, so none is always first."""
    start = run % len(all_of_them)
    return all_of_them[start:] + all_of_them[:start]


class Latency:
    """One attach, by every contender in turn, each container used once and its veth pair taken out
    before the next."""

    def __init__(self, kit, runs):
        self.series = {}
        self.missing = []
        world = {}
        contenders = []
        for key, host, contender in [
                ('true', 'ours', Nothing('`/bin/true`')),
                ('netsetgo', 'ours', Netsetgo('**netsetgo**')),
                ('floor', 'ours', Floor('the floor')),
                # In one host, different policies and commands that change the firewall would make
                # each attach write the firewall anew.
                ('plain', 'plain', Netsetgo('**netsetgo**, `nat = false`', nat=False)),
                ('publish', 'publish', Netsetgo('**netsetgo** `-publish 8000:80`', options=PUBLISH)),
                ('heir', 'publish', Heir('**netsetgo**, after a container that published a port',
                                         PUBLISH)),
                ('alone', 'ours', Floor('the floor in one process', 'alone')),
                ('ip', 'ours', ByIp('four `ip` commands, as root')),
                ('cni', 'cni', CniBridge('CNI bridge + host-local', False)),
                ('cni-masq', 'cni', CniBridge('CNI bridge + host-local, ipMasq', True)),
                ('netavark', 'netavark', Netavark('netavark')),
                ('lxc', 'lxc', LxcUserNic('lxc-user-nic (no address, no route)'))]:
            if contender.missing():
                self.missing.append(contender.title)
                continue
            if host not in world:
                world[host] = kit.world()
            try:
                contender.prepare(world[host])
            except Failed as error:
                self.missing.append(f'{contender.title} ({error})')
                continue
            contenders.append((key, contender))
            self.series[key] = Series(contender.title)
            # What is made once, such as the bridge, exists from now on.
            sample(contender, world[host].containers(1), 0, Series(''))
            if key == 'netsetgo':
                self.ours = contender
            elif key == 'floor':
                self.floor = contender
        pids = {one: one.containers(runs * 7 + 60) for one in world.values()}
        self.pids = pids[world['ours']]
        for run in range(runs):
            for key, contender in in_turn(contenders, run):
                sample(contender, pids[contender.world], 0, self.series[key])


class Growth:
    """The attach with a given number on a /22: a host for each contender, filled up in step."""

    NUMBERS = [1, 10, 100, 500, 1000]

    def __init__(self, kit, runs, numbers=None):
        self.numbers = numbers or self.NUMBERS
        self.series, self.deaths, self.left = {}, {}, {}
        self.publishing = {}
        contenders = [one for one in (Netsetgo('**netsetgo**'), Floor('the floor'),
                                      CniBridge('CNI bridge + host-local', False))
                      if not one.missing()]
        pids = {}
        for one in contenders:
            one.prepare(kit.world())
            pids[one] = []
            # The first one makes the bridge.
            sample(one, one.world.containers(1), 0, Series(''))
        for number in self.numbers:
            for one in contenders:
                fresh = one.world.containers(number - 1 - len(pids[one]))
                for at, pid in enumerate(fresh, len(pids[one]) + 1):
                    one.attach(pid, at)
                pids[one] += fresh
                self.series[one.title, number] = Series(one.title)
            use = {one: one.world.containers(runs) for one in contenders}
            for _ in range(runs):
                for one in contenders:
                    sample(one, use[one], number, self.series[one.title, number])
        for one in contenders:
            prefixes = ['ns', 'floor'] if one.title != 'CNI bridge + host-local' else ['veth']
            self.deaths[one.title] = one.world.until_gone(pids[one], prefixes)
        cni = [one for one in contenders if isinstance(one, CniBridge)]
        if cni:
            leases = cni[0].world.sh('ls /run/cni/plain | grep -c "^10\\." || true')
            self.left['CNI bridge + host-local'] = int(leases)
        self.published(contenders[0].world, runs)

    def published(self, world, runs):
        """The first port and the thousandth, by the same host."""
        contender = Netsetgo('')
        contender.prepare(world)
        one = Netsetgo('', options=['-publish', '9500:80'])
        one.prepare(world)
        holder = None
        for number in (1, 1000):
            if number > 1:
                # All the others, by one container.
                ports = [word for port in range(8000, 8000 + number - 1)
                         for word in ('-publish', f'{port}:{port}')]
                many = Netsetgo('', options=ports)
                many.prepare(world)
                [holder] = world.containers(1)
                many.attach(holder)
            without, with_port = Series('without'), Series('with')
            pids = world.containers(2 * runs)
            for _ in range(runs):
                sample(contender, pids, 0, without)
                sample(one, pids, 0, with_port)
            self.publishing[number] = without, with_port


class Parallel:
    """Attaches a second with this number of callers at once, the same number of containers each time."""

    CALLERS = [1, 2, 4, 16, 64]

    def __init__(self, kit, runs, attaches):
        self.attaches = attaches
        self.series = {}
        self.failed = {}
        contenders = [Netsetgo('**netsetgo**'), Floor('the floor')]
        for one in contenders:
            one.prepare(kit.world())
            sample(one, one.world.containers(1), 0, Series(''))
        for run in range(runs):
            for callers in self.CALLERS:
                for one in contenders if run % 2 else reversed(contenders):
                    series = self.series.setdefault((one.title, callers), Series(one.title))
                    pids = one.world.containers(attaches)
                    jobs = [one.command(pid, at) for at, pid in enumerate(pids)]
                    took, failed = one.world.parallel(callers, jobs)
                    if failed:
                        series.fail(f'{failed} of {attaches}')
                        self.failed[one.title, callers] = (
                            self.failed.get((one.title, callers), 0) + failed)
                    series.add(took)
                    try:
                        one.world.until_gone(pids, ['ns', 'floor'])
                    except Failed as error:
                        series.fail(error)
