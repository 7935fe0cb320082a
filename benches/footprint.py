"""What netsetgo takes besides time: bytes, memory, system calls, code; and where its time goes."""

import os
import re
import subprocess

from figures import Series, number, table
from world import ALICE, Failed, ROOT

AS_ALICE = f'setpriv --reuid {ALICE} --regid {ALICE} --clear-groups --'


class Trace:
    """The system calls of one attach, as strace(1) shows them. Root traces, so calls that set ids and
    capabilities work."""

    def __init__(self, contender, pid):
        command = ' '.join(contender.command(pid, 0))
        text = contender.world.sh(
            f'strace -f -s 80 -o /run/trace -u alice {command}; cat /run/trace')
        contender.undo(pid)
        self.calls = {}
        first = None
        for line in text.splitlines():
            process, call = line.split(None, 1)
            first = first or process
            if re.match(r'\w+\(', call):
                self.calls.setdefault(process, []).append(call)
        self.parent = self.calls[first]
        self.count = [len(calls) for calls in self.calls.values()]


# The phases of netsetgo: a name, and a pattern. A phase begins with the first call after the beginning
# of the last phase that matches. FD stands for the parent's end of the channel to its child.
PHASES = [
    ('exec, and the C library\'s start', r'execve'),
    ('become the caller, and prove it', r'rt_sigaction'),
    ('take the system call filter', r'prctl\(PR_SET_SECCOMP'),
    ('read the policy', r'openat\(.*netsetgo\.toml'),
    ('open the target', r'pidfd_open'),
    ('fork', r'socketpair'),
    ('look at the bridge, while the child enters the target', r'socket\(AF_NETLINK'),
    ('see that nobody has changed the firewall', r'openat\(.*ip_forward'),
    ('wait for the child\'s proof', r'recvfrom\(FD,'),
    ('choose address and name', r'ioctl\(.*SIOCGIFINDEX'),
    ('create the pair', r'sendto\(.*RTM_NEWLINK.*NLM_F_EXCL'),
    ('order the inside, see what an earlier lessee left', r'sendto\(FD,'),
    ('set the port, its forwarding entry, up', r'sendto\(.*RTM_NEWLINK'),
    ('wait for the child\'s end', r'wait4'),
    ('give up the rest, end', r'capset\(.*permitted=0,'),
]
FLOOR_PHASES = [
    ('exec, and the C library\'s start', r'execve'),
    ('open the target', r'openat\(.*/ns/net'),
    ('fork', r'pipe'),
    ('open the host\'s socket', r'socket\('),
    ('create the pair', r'sendto\('),
    ('set the port, its forwarding entry, up', r'write\('),
    ('wait for the child, end', r'wait4'),
]


def beginnings(calls, phases):
    """At which call each phase begins; `None` if one is not found."""
    pair = next((re.search(r'\[(\d+), \d+\]', call) for call in calls
                 if call.startswith('socketpair')), None)
    channel = pair.group(1) if pair else '-'
    found, at = [], 0
    for _, pattern in phases:
        pattern = re.compile(pattern.replace('FD', channel))
        at = next((i for i in range(at, len(calls)) if pattern.match(calls[i])), None)
        if at is None:
            return None
        found.append(at)
        at += 1
    return found


def times_of_calls(contender, pid):
    """When each system call of the parent began, in seconds, and when its end was signalled, from the
    kernel's trace points. These take a microsecond each, where strace(1) takes fifty."""
    # perf itself gives processes of other pid namespaces the number 0.
    command = ' '.join(contender.command(pid, 0))
    text = contender.world.sh(f'''
        perf record -q -a -m 8M -o /run/perf -k CLOCK_MONOTONIC -c 1 -e raw_syscalls:sys_enter \
            -e signal:signal_generate -- {AS_ALICE} {command} >/dev/null 2>&1
        perf script -i /run/perf -F tid,time,event,trace --ns 2>/dev/null''')
    contender.undo(pid)
    calls, last = {}, None
    line = re.compile(r'\s*(\d+)\s+([\d.]+):\s+\S+:(\w+): (.*)')
    for match in filter(None, map(line.match, text.splitlines())):
        tid, when, event, rest = match.groups()
        if tid == '0':
            continue
        own = calls.setdefault(tid, [])
        if event == 'sys_enter':
            own.append((float(when), int(rest.split()[1])))
        elif event == 'signal_generate' and rest.startswith('sig=17') and 'comm=perf' in rest:
            last = (tid, float(when))
    if not last:
        raise Failed('perf saw no end')
    tid, end = last
    own = calls[tid]
    execve = max(i for i, (_, nr) in enumerate(own) if nr == EXECVE)
    return [when for when, _ in own[execve:]], end


EXECVE = {'x86_64': 59, 'aarch64': 221}.get(os.uname().machine, -1)


def phases(contender, pids, runs, which):
    """Where the time of an attach goes: rows of phase and microseconds, and how many runs."""
    trace = Trace(contender, pids.pop())
    starts = beginnings(trace.parent, which)
    if starts is None:
        return None
    series = [Series(name) for name, _ in which]
    for one, begin, after in zip(series, starts, [*starts[1:], len(trace.parent)]):
        one.calls = after - begin
    for _ in range(runs):
        try:
            calls, end = times_of_calls(contender, pids.pop())
        except Failed as error:
            series[0].fail(error)
            continue
        if len(calls) != len(trace.parent):
            series[0].fail('another number of system calls')
            continue
        marks = [calls[start] for start in starts] + [end]
        for one, begin, after in zip(series, marks, marks[1:]):
            one.add((after - begin) * 1e6)
    return series


def phase_table(series):
    total = sum(one.median or 0 for one in series)
    rows = [[one.title, number(one.median, 0), number(min(one.values), 0),
             f'{100 * (one.median or 0) / (total or 1):.0f} %', str(one.calls)] for one in series]
    least = sum(min(one.values) for one in series)
    calls = sum(one.calls for one in series)
    rows.append(['sum', number(total, 0), number(least, 0), '', str(calls)])
    return table(['phase', 'µs, median', 'least', 'share', 'system calls'], rows)


def crates(cargo):
    """How many crates are in the program, without itself and those that run in the compiler."""
    tree = subprocess.run(
        [*cargo, 'tree', '--locked', '--offline', '-e', 'normal,no-proc-macro', '--prefix', 'none',
         '--no-dedupe'], cwd=ROOT, capture_output=True, text=True, check=False)
    if tree.returncode:
        return None
    return len({' '.join(line.split()[:2]) for line in tree.stdout.splitlines() if line}) - 1


def lines():
    """Lines of src: without unit tests, blank lines and comments; and all."""
    code = everything = 0
    for path in (ROOT / 'src').rglob('*.rs'):
        text = path.read_text()
        everything += text.count('\n')
        text = re.split(r'^#\[cfg\(test\)\]\nmod ', text, flags=re.M)[0]
        code += sum(1 for line in text.splitlines() if line.strip() and
                    not line.strip().startswith('//'))
    return code, everything


def footprint(netsetgo, floor, contender, floor_contender, pids, cargo, traced):
    """Rows of what it takes."""
    code, everything = lines()
    rows = [['executable, static', f'{os.path.getsize(netsetgo) / 2**20:.2f} MiB',
             f'{os.path.getsize(floor) / 2**20:.2f} MiB']]
    result = {'binary': os.path.getsize(netsetgo) / 2**20}
    if traced:
        memory = []
        for one in (contender, floor_contender):
            pid = pids.pop()
            memory.append(contender.world.memory(one.command(pid, 0)))
            one.undo(pid)
        result['memory'] = memory[0][0] / 1024
        rows.append(['peak resident memory, the larger of its two processes',
                     *(f'{peaks[0] / 1024:.2f} MiB' for peaks in memory)])
        rows.append(['and of the other', *(f'{peaks[-1] / 1024:.2f} MiB' for peaks in memory)])
        traces = [Trace(one, pids.pop()) for one in (contender, floor_contender)]
        rows.append(['system calls of an attach, parent + child',
                     *(' + '.join(map(str, trace.count)) for trace in traces)])
    rows.append(['crates in it', number(crates(cargo)), ''])
    rows.append(['lines of src, without tests, comments and blank ones', number(code), ''])
    rows.append(['lines of src, all', number(everything), ''])
    return result, rows
