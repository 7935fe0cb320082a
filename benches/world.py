"""Throwaway hosts for benches/run: the tests' own (tests/it/world/start.sh), with an agent in each
that starts containers there, runs programs and measures their time.

The agent is this file, run as a program, as pid 1 of new network, mount and pid namespaces. A request
is a line of JSON, an answer is another one. When its standard input closes, the agent ends, and the
kernel takes everything away.
"""

import ctypes
import json
import os
import pathlib
import pwd
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATH = '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin'
ALICE = 1000
HOST, REMOTE = '192.0.2.1', '192.0.2.9'


class Failed(Exception):
    """A request to a world that failed there."""


class World:
    """A throwaway host, seen from outside."""

    def __init__(self, netsetgo, floor):
        start = ROOT / 'tests/it/world/start.sh'
        self.process = subprocess.Popen(
            ['unshare', '--net', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc',
             '--propagation', 'private', '--',
             sys.executable, '-B', __file__, start, netsetgo, floor],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={'PATH': PATH, 'LC_ALL': 'C'})
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed('the world has ended')
        answer = json.loads(line)
        if 'failed' in answer:
            raise Failed(answer['failed'])
        return answer['done']

    def ask(self, question, *arguments):
        self.process.stdin.write(json.dumps([question, *arguments]) + '\n')
        self.process.stdin.flush()
        return self.answer()

    def sh(self, script):
        """Runs a shell script as root; it has to succeed. Gives what it printed."""
        return self.ask('sh', script)

    def write(self, path, text):
        return self.ask('write', path, text)

    def containers(self, count):
        """Starts containers: user and network namespaces of alice's own. Gives their pids."""
        return self.ask('containers', count)

    def kill(self, pids):
        return self.ask('kill', pids)

    def start(self, argv, uid=0):
        """Starts a program that goes on. Gives its pid."""
        return self.ask('start', argv, uid)

    def internet(self):
        """Connects the host to a remote one. Gives the pid of who is there."""
        return self.ask('internet')

    def time(self, argv, uid=ALICE, stdin=None, env=None):
        """Runs a program. Gives the milliseconds it took; an error is raised if it failed."""
        return self.ask('time', argv, uid, stdin, env or {})

    def parallel(self, callers, jobs, uid=ALICE):
        """Has so many callers run the jobs, which are command lines, each the next in its share.
        Gives the milliseconds until the last has ended, and what went wrong."""
        return self.ask('parallel', callers, jobs, uid)

    def until_gone(self, pids, prefixes):
        """Kills containers. Gives the milliseconds until no interface of the host begins so."""
        return self.ask('until_gone', pids, prefixes)

    def index(self, name):
        """The index of the host's interface."""
        return self.ask('index', name)

    def memory(self, argv, uid=ALICE):
        """Runs a program. Gives the peaks of its processes' memory, in kB."""
        return self.ask('memory', argv, uid)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


# --- Inside -----------------------------------------------------------------------------------

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_DUMPABLE = 4
COMPLAINTS = '/tmp/complaints'


def checked(status):
    if status == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def become(uid):
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def in_child(story):
    """Forks; the child's life is `story`."""
    pid = os.fork()
    if pid:
        return pid
    try:
        story()
    except BaseException as error:  # after any error the child must not go on as its parent
        os.write(2, f'{error!r}\n'.encode())
        os._exit(1)
    os._exit(0)


class Runner:
    """A process of a user that starts programs and takes their time, one after the other."""

    def __init__(self, uid):
        ours, theirs = os.pipe(), os.pipe()

        def story():
            become(uid)
            null = os.open('/dev/null', os.O_RDWR)
            complaints = os.open(f'{COMPLAINTS}-{uid}', os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            for number, descriptor in enumerate([null, null, complaints]):
                os.dup2(descriptor, number)
            for descriptor in (ours[0], theirs[1]):
                os.close(descriptor)
            with open(theirs[0]) as questions:
                for line in questions:
                    argv, stdin, env = json.loads(line)
                    took, status = timed(argv, stdin, env)
                    wrong = ''
                    if status:
                        os.lseek(complaints, 0, os.SEEK_SET)
                        wrong = os.read(complaints, 4000).decode(errors='replace')
                        wrong = f'{argv[0]}: status {status}: {wrong.strip()}'
                    os.ftruncate(complaints, 0)
                    os.write(ours[1], (json.dumps([took, wrong]) + '\n').encode())

        in_child(story)
        os.close(ours[1])
        os.close(theirs[0])
        self.answers, self.questions = open(ours[0]), theirs[1]

    def run(self, argv, stdin, env):
        os.write(self.questions, (json.dumps([argv, stdin, env]) + '\n').encode())
        took, wrong = json.loads(self.answers.readline())
        if wrong:
            raise Failed(wrong)
        return took


def timed(argv, stdin=None, env=None):
    """What is measured: from before the program's start until its end was waited for."""
    files = [(os.POSIX_SPAWN_OPEN, 0, stdin, os.O_RDONLY, 0)] if stdin else []
    env = {'PATH': PATH, **(env or {})}
    begin = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, env, file_actions=files)
    _, status = os.waitpid(pid, 0)
    return (time.perf_counter() - begin) * 1000, status


class Agent:
    def __init__(self):
        self.runners = {}

    def sh(self, script):
        done = subprocess.run(['bash', '-ec', script], stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        if done.returncode:
            raise Failed(f'{script.strip()}: {done.stderr.strip() or done.stdout.strip()}')
        return done.stdout

    def write(self, path, text):
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_text(text)

    def containers(self, count, uid=ALICE):
        ready, say = os.pipe()

        def story():
            become(uid)
            flags = CLONE_NEWNET | (CLONE_NEWUSER if uid else 0)
            checked(LIBC.unshare(flags))
            # Like an executed program. Otherwise its files would belong to root.
            checked(LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))
            if uid:
                pathlib.Path('/proc/self/setgroups').write_text('deny')
                pathlib.Path('/proc/self/uid_map').write_text(f'0 {uid} 1')
                pathlib.Path('/proc/self/gid_map').write_text(f'0 {uid} 1')
            os.write(say, b'.')
            signal.pause()

        pids = [in_child(story) for _ in range(count)]
        os.close(say)
        there = 0
        while there < count:
            some = os.read(ready, count)
            if not some:
                raise Failed('a container could not be started')
            there += len(some)
        os.close(ready)
        return pids

    def kill(self, pids):
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)

    def start(self, argv, uid):
        def story():
            become(uid)
            null = os.open('/dev/null', os.O_RDWR)
            complaints = os.open(f'{COMPLAINTS}-of-{os.getpid()}',
                                 os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            for number, descriptor in enumerate([null, complaints, complaints]):
                os.dup2(descriptor, number)
            os.execvpe(argv[0], argv, {'PATH': PATH})

        return in_child(story)

    def internet(self):
        [remote] = self.containers(1, 0)
        self.sh(f'''
            ip link add eth0 type veth peer name eth0 netns {remote}
            ip address add {HOST}/24 dev eth0; ip link set eth0 up
            ip route add default via {REMOTE}
            nsenter -t {remote} -n sh -c '
                ip address add {REMOTE}/24 dev eth0; ip link set eth0 up; ip link set lo up' ''')
        return remote

    def time(self, argv, uid, stdin, env):
        if uid not in self.runners:
            self.runners[uid] = Runner(uid)
        return self.runners[uid].run(argv, stdin, env)

    def parallel(self, callers, jobs, uid):
        start, begin = os.pipe()
        outcomes, say = os.pipe()

        def caller(own):
            os.close(begin)
            become(uid)
            os.dup2(os.open('/dev/null', os.O_RDWR), 2)
            os.write(say, b'?')
            os.read(start, 1)
            for job in own:
                _, status = timed(job)
                os.write(say, b'!' if status else b'.')

        pids = [in_child(lambda i=i: caller(jobs[i::callers])) for i in range(callers)]
        os.close(start)
        os.close(say)
        ready = 0
        while ready < callers:
            ready += len(os.read(outcomes, callers))
        before = time.perf_counter()
        os.close(begin)
        done = b''
        while len(done) < len(jobs):
            some = os.read(outcomes, 1000)
            if not some:
                break
            done += some
        took = (time.perf_counter() - before) * 1000
        os.close(outcomes)
        for pid in pids:
            os.waitpid(pid, 0)
        return took, len(jobs) - done.count(b'.')

    def until_gone(self, pids, prefixes):
        begin = time.perf_counter()
        self.kill(pids)
        while True:
            names = interfaces()
            if not any(name.startswith(tuple(prefixes)) for name in names):
                return (time.perf_counter() - begin) * 1000
            time.sleep(0.002)

    def index(self, name):
        return socket.if_nametoindex(name)

    def memory(self, argv, uid):
        """Runs a program and holds each of its processes at its end, to read what the kernel has in
        memory for it: exactly, page by page, and the highest that it has counted. What wait4(2)
        tells is also the peak of whoever called execve(2), and no use here."""
        tracer = self.start(
            ['strace', '-f', '-o', '/dev/null', '-e', 'trace=exit_group', '-e',
             'inject=exit_group:delay_enter=200000', '-u', pwd.getpwuid(uid).pw_name, *argv], 0)
        name, seen = os.path.basename(argv[0])[:15], {}
        while os.waitpid(tracer, os.WNOHANG) == (0, 0):
            for pid in filter(str.isdigit, os.listdir('/proc')):
                try:
                    process = pathlib.Path('/proc', pid)
                    if (process / 'comm').read_text().strip() != name:
                        continue
                    sizes = []
                    for file, field in (('smaps_rollup', 'Rss:'), ('status', 'VmHWM:')):
                        for line in (process / file).read_text().splitlines():
                            if line.startswith(field):
                                sizes.append(int(line.split()[1]))
                    seen[pid] = max(sizes + [seen.get(pid, 0)])
                except (FileNotFoundError, ProcessLookupError):
                    pass
            time.sleep(0.005)
        return sorted(seen.values(), reverse=True)


def interfaces():
    """The names of the host's interfaces."""
    lines = pathlib.Path('/proc/net/dev').read_text().splitlines()[2:]
    return [line.split(':')[0].strip() for line in lines]


def furnish(start, netsetgo, floor):
    built = pathlib.Path(floor).read_bytes()
    # Its standard input has ended, so the script ends too.
    subprocess.run(['sh', start, netsetgo], check=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL)
    installed = pathlib.Path('/usr/local/bin/floor')
    installed.write_bytes(built)
    installed.chmod(0o4755)


def main():
    # Python ignores these signals, and programs started here would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    questions, answers = os.dup(0), os.dup(1)
    null = os.open('/dev/null', os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    agent = Agent()
    with open(questions) as questions, open(answers, 'w') as answers:
        def answer(**what):
            print(json.dumps(what), file=answers, flush=True)

        furnish(*sys.argv[1:])
        answer(done=None)
        for line in questions:
            what, *arguments = json.loads(line)
            try:
                answer(done=getattr(agent, what)(*arguments))
            except Exception as error:  # the program that asked gets it, and decides
                answer(failed=str(error) or repr(error))


if __name__ == '__main__':
    main()
