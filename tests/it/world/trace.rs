//! The helper, stopped at each of its system calls, and looked at.
//!
//! A trace stands before every system call that the helper and its child make. It can look, and it
//! can end there and leave the process stopped, as its caller could with a well-timed SIGSTOP; from
//! then on it is not traced any more.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Outcome, PATIENCE, User, only_child};

/// Which process of a run it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The helper itself.
    Parent,
    /// The child that works inside the container.
    Child,
}

/// A process of the helper that stands before a system call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stage {
    /// Which one it is.
    pub(crate) part: Part,
    /// How many system calls it has made, of which the first is 0.
    pub(crate) made: usize,
    /// The number of the system call that it is about to make.
    pub(crate) call: i64,
    /// Whether another process may notice that it made the call, by what has changed.
    pub(crate) acts: bool,
    /// Its pid, as seen by the test.
    pub(crate) pid: Pid,
}

impl Stage {
    /// Whether it is the same place in another run.
    pub(crate) fn is(&self, other: &Stage) -> bool {
        (self.part, self.made) == (other.part, other.made)
    }

    /// The types of the netlink messages that it is about to send, each in two parts: what it is, and
    /// whose.
    pub(crate) fn messages(&self) -> Vec<[u8; 2]> {
        let sends = call(self.pid).filter(|(call, _)| *call == libc::SYS_sendto);
        let sent = sends.and_then(|(_, arguments)| sent(self.pid, arguments));
        sent.and_then(|sent| types(&sent)).unwrap_or_default()
    }

    /// A line of its `/proc/PID/status`, without the name.
    #[track_caller]
    pub(crate) fn status(&self, name: &str) -> String {
        status(self.pid, name).unwrap_or_else(|| panic!("no {name} of {self:?}"))
    }

    /// Its namespace of that kind.
    pub(crate) fn namespace(&self, kind: &str) -> String {
        let link = fs::read_link(format!("/proc/{}/ns/{kind}", self.pid)).unwrap();
        link.to_str().unwrap().to_owned()
    }
}

fn status(pid: Pid, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned())
}

/// The pid of a process as its own pid namespace has it.
fn pid_inside(pid: Pid) -> Option<u32> {
    status(pid, "NSpid")?.split_whitespace().last()?.parse().ok()
}

/// Whether a run is stopped at every place, as `tests/run --full` asks for.
fn full() -> bool {
    std::env::var_os("NETSETGO_FULL").is_some()
}

/// Chooses the places of a process at which a run is stopped, unless it is at all of them: before each
/// call that acts, and after it; before each that looks at what others may change, or gives up a right; and
/// before every sixth of the others, as neither side has learnt anything since the one before.
#[derive(Default)]
pub(crate) struct Choice {
    killed: bool,
    acted: bool,
    others: usize,
}

impl Choice {
    /// For runs that are killed: what they have looked at makes no difference then.
    pub(crate) fn of_kills() -> Choice {
        Choice { killed: true, ..Choice::default() }
    }

    /// Whether this one is chosen. It is asked about one place after the other, as they come.
    pub(crate) fn takes(&mut self, stage: &Stage) -> bool {
        let after = std::mem::replace(&mut self.acted, stage.acts);
        if full() || stage.acts || after {
            return true;
        }
        if !self.killed && (looks(stage.call) || gives_up(stage.call)) {
            return true;
        }
        self.others += 1;
        self.others.is_multiple_of(6)
    }
}

/// The places of a run that are such, or a choice of them.
pub(crate) fn places(
    user: &User<'_>,
    command: impl AsRef<str>,
    such: impl Fn(&Stage) -> bool,
) -> Vec<Stage> {
    choice(stages(user, command).into_iter().filter(such))
}

/// A choice of these places.
pub(crate) fn choice(all: impl IntoIterator<Item = Stage>) -> Vec<Stage> {
    let (mut parents, mut childs) = (Choice::default(), Choice::default());
    let chosen = |stage: &Stage| match stage.part {
        Part::Parent => parents.takes(stage),
        Part::Child => childs.takes(stage),
    };
    all.into_iter().filter(chosen).collect()
}

/// The stages of a run, without those in the midst of a series of one and the same system call.
pub(crate) fn stages(user: &User<'_>, command: impl AsRef<str>) -> Vec<Stage> {
    let mut all = Vec::new();
    let _ = Trace::of(user, command).watch(|stage| all.push(stage));
    all.sort_by_key(|stage| (stage.part == Part::Child, stage.made));
    let alike =
        |a: Option<&Stage>, b: &Stage| a.is_some_and(|a| (a.part, a.call) == (b.part, b.call));
    let inner = |at: usize| alike(all.get(at + 1), &all[at]) && alike(all[..at].last(), &all[at]);
    (0..all.len()).filter(|at| !inner(*at)).map(|at| all[at]).collect()
}

/// A run of the helper under a tracer.
pub(crate) struct Trace {
    command: Child,
    _input: ChildStdin,
    tracees: Tracees,
}

/// Those that are traced. They do not outlive their trace: who is traced stays a zombie, and its
/// world with it, for as long as the tracer does not look.
struct Tracees(Vec<Tracee>);

impl Drop for Tracees {
    fn drop(&mut self) {
        for Tracee { pid, .. } in &self.0 {
            let _ = kill(*pid, Signal::SIGKILL);
            while !matches!(waitpid(*pid, None), Ok(WaitStatus::Signaled(..)) | Err(_)) {}
        }
    }
}

struct Tracee {
    pid: Pid,
    part: Part,
    made: usize,
    stopped: bool,
}

impl Trace {
    /// Starts a command for `user`, which executes the helper, and stops where that begins.
    pub(crate) fn of(user: &User<'_>, command: impl AsRef<str>) -> Trace {
        // The shell stays the parent, as nsenter would stop whenever its own child does.
        let mut command = user
            .command(&format!(
                "exec 3<&0; (echo; read go; exec {} 3<&-) <&3 & wait $!",
                command.as_ref()
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Byte by byte, so that nothing of what the helper will print is lost in a buffer.
        let mut line = String::new();
        BufReader::with_capacity(1, command.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            panic!("not started: {:?}", Outcome::from(command.wait_with_output().unwrap()));
        }
        let helper = only_child(only_child(command.id()));
        let pid = Pid::from_raw(helper.try_into().unwrap());
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE;
        ptrace::seize(pid, options).expect("to trace as root");
        let mut input = command.stdin.take().unwrap();
        input.write_all(b"\n").unwrap();
        let name = format!("/proc/{pid}/comm");
        while !matches!(
            waitpid(pid, None),
            Ok(WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC))
        ) || fs::read_to_string(&name).unwrap() != "netsetgo\n"
        {
            ptrace::cont(pid, None).expect("the helper to be executed");
        }
        let parent = Tracee { pid, part: Part::Parent, made: 0, stopped: true };
        Trace { command, _input: input, tracees: Tracees(vec![parent]) }
    }

    /// Goes on to the end, and calls `look` before each system call.
    pub(crate) fn watch(mut self, mut look: impl FnMut(Stage)) -> Outcome {
        let stopped = self.run(|stage| {
            look(stage);
            false
        });
        assert!(stopped.is_none());
        self.command.wait_with_output().unwrap().into()
    }

    /// Goes on up to where `here` says so, and leaves that process stopped there. The other one, if
    /// there is one, runs on. `None` if the run ended before.
    pub(crate) fn freeze(mut self, here: impl FnMut(Stage) -> bool) -> Option<Frozen> {
        let stage = self.run(here)?;
        for tracee in &mut self.tracees.0 {
            tracee.stop();
            if tracee.pid == stage.pid {
                // The signal comes while the call is executed, so it stops once that is made.
                let _ = kill(tracee.pid, Signal::SIGSTOP);
            }
            tracee.let_go();
        }
        let pids = self.tracees.0.drain(..).map(|tracee| tracee.pid).collect();
        let frozen = Frozen { command: self.command, stage, pids };
        frozen.settle();
        Some(frozen)
    }

    /// Goes on up to where `here` says so, and has that process make another system call than the one
    /// that it is about to make. Gives what the kernel answers it, or the signal that it dies of.
    /// Nothing of the run goes on after that.
    pub(crate) fn make_another(
        mut self,
        here: impl FnMut(Stage) -> bool,
        call: libc::c_long,
        arguments: [u64; 3],
    ) -> Result<i64, Signal> {
        let pid = self.run(here).expect("a run that gets there").pid;
        let mut registers = ptrace::getregs(pid).unwrap();
        registers.orig_rax = call.try_into().unwrap();
        [registers.rdi, registers.rsi, registers.rdx] = arguments;
        ptrace::setregs(pid, registers).unwrap();
        self.answer(pid)
    }

    /// Likewise a 32-bit one (`int 0x80`), which it makes after one that it may make.
    pub(crate) fn make_one_of_32_bits(
        mut self,
        here: impl FnMut(Stage) -> bool,
        call: u64,
        arguments: [u64; 3],
    ) -> Result<i64, Signal> {
        const SYSCALL: [u8; 2] = [0x0f, 0x05];
        const INT_80: [u8; 2] = [0xcd, 0x80];
        let pid = self.run(here).expect("a run that gets there").pid;
        let mut registers = ptrace::getregs(pid).unwrap();
        registers.orig_rax = libc::SYS_getpid.cast_unsigned();
        ptrace::setregs(pid, registers).unwrap();
        ptrace::syscall(pid, None).unwrap();
        assert!(matches!(
            waitpid(pid, Some(WaitPidFlag::__WALL)),
            Ok(WaitStatus::PtraceSyscall(_))
        ));
        // Back to the instruction that it came by, which is another from now on.
        let mut registers = ptrace::getregs(pid).unwrap();
        registers.rip -= SYSCALL.len() as u64;
        let memory =
            File::options().read(true).write(true).open(format!("/proc/{pid}/mem")).unwrap();
        let mut instruction = [0; 2];
        memory.read_exact_at(&mut instruction, registers.rip).unwrap();
        assert_eq!(instruction, SYSCALL);
        memory.write_all_at(&INT_80, registers.rip).unwrap();
        registers.rax = call;
        [registers.rbx, registers.rcx, registers.rdx] = arguments;
        ptrace::setregs(pid, registers).unwrap();
        ptrace::syscall(pid, None).unwrap();
        match waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::PtraceSyscall(_) => self.answer(pid),
            // Of a kernel that has none the instruction is a fault.
            WaitStatus::Stopped(_, signal) => Err(signal),
            other => panic!("instead of a system call: {other:?}"),
        }
    }

    /// What the kernel answers a process that stands before a system call, or the signal that it dies
    /// of.
    fn answer(mut self, pid: Pid) -> Result<i64, Signal> {
        let mut answer = None;
        loop {
            ptrace::syscall(pid, None).unwrap();
            match (waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap(), answer) {
                // A process that is about to die stops here as well.
                (WaitStatus::PtraceSyscall(_), None) => {
                    answer = Some(ptrace::getregs(pid).unwrap().rax.cast_signed());
                }
                (WaitStatus::Signaled(_, signal, _), _) => {
                    self.tracees.0.retain(|tracee| tracee.pid != pid);
                    return Err(signal);
                }
                (_, Some(answer)) => return Ok(answer),
                // It has a child, which is not to outlive it.
                (WaitStatus::PtraceEvent(..), None) => {
                    let born = ptrace::getevent(pid).unwrap();
                    self.tracees.0.push(Tracee::child(born));
                }
                (other, None) => panic!("instead of an answer or an end: {other:?}"),
            }
        }
    }

    /// Lets everything run from system call to system call, until `here` says stop.
    fn run(&mut self, mut here: impl FnMut(Stage) -> bool) -> Option<Stage> {
        let deadline = Instant::now() + PATIENCE;
        while !self.tracees.0.is_empty() {
            assert!(Instant::now() < deadline, "the traced helper does not come to an end");
            let alone = self.tracees.0.len() == 1;
            let mut born = Vec::new();
            let mut ended = Vec::new();
            for tracee in &mut self.tracees.0 {
                tracee.go_on(None);
                match tracee.event(alone) {
                    WaitStatus::PtraceSyscall(_) => {
                        if let Some(stage) = tracee.stage()
                            && here(stage)
                        {
                            return Some(stage);
                        }
                    }
                    WaitStatus::PtraceEvent(
                        pid,
                        _,
                        libc::PTRACE_EVENT_FORK
                        | libc::PTRACE_EVENT_VFORK
                        | libc::PTRACE_EVENT_CLONE,
                    ) => {
                        born.push(ptrace::getevent(pid).unwrap());
                    }
                    WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) => {
                        panic!("process {pid} executed a program");
                    }
                    WaitStatus::Stopped(_, signal) => tracee.go_on(Some(signal)),
                    WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => ended.push(pid),
                    _ => {}
                }
            }
            self.tracees.0.retain(|tracee| !ended.contains(&tracee.pid));
            self.tracees.0.extend(born.into_iter().map(Tracee::child));
        }
        None
    }
}

impl Tracee {
    fn child(pid: libc::c_long) -> Tracee {
        let pid = Pid::from_raw(pid.try_into().unwrap());
        Tracee { pid, part: Part::Child, made: 0, stopped: false }
    }

    /// What came of it. Who is watched alone is waited for.
    fn event(&mut self, alone: bool) -> WaitStatus {
        let mut flags = WaitPidFlag::__WALL;
        if !alone {
            flags |= WaitPidFlag::WNOHANG;
            std::thread::sleep(Duration::from_micros(10));
        }
        let event = waitpid(self.pid, Some(flags)).unwrap();
        self.stopped = !matches!(event, WaitStatus::StillAlive);
        event
    }

    /// Lets it run up to its next system call, with this signal.
    fn go_on(&mut self, signal: Option<Signal>) {
        if !self.stopped {
            return;
        }
        match ptrace::syscall(self.pid, signal) {
            // Killed in the meantime: its end is the next event.
            Ok(()) | Err(Errno::ESRCH) => self.stopped = false,
            Err(error) => panic!("to go on with process {}: {error}", self.pid),
        }
    }

    /// Stops it, if it does not stand still already.
    fn stop(&mut self) {
        if !self.stopped && ptrace::interrupt(self.pid).is_ok() {
            let _ = waitpid(self.pid, Some(WaitPidFlag::__WALL));
        }
    }

    /// Traces it no more. If it has ended, that is taken note of, or it would stay a zombie and its
    /// parent wait for it.
    fn let_go(&self) {
        if ptrace::detach(self.pid, None).is_err() {
            let _ = waitpid(self.pid, Some(WaitPidFlag::__WALL));
        }
    }

    /// Where it stands, if that is before a system call and not after one.
    fn stage(&mut self) -> Option<Stage> {
        if ptrace::syscall_info(self.pid).ok()?.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return None;
        }
        let (call, arguments) = call(self.pid)?;
        let acts = acts(self.pid, call, arguments);
        let stage = Stage { part: self.part, made: self.made, call, acts, pid: self.pid };
        self.made += 1;
        Some(stage)
    }
}

/// The system call before which a process stands, and its first three arguments.
fn call(pid: Pid) -> Option<(i64, [u64; 3])> {
    let text = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    let mut words = text.split_whitespace();
    let call = words.next()?.parse().ok()?;
    let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
    let mut arguments = words.map_while(number);
    Some((call, [arguments.next()?, arguments.next()?, arguments.next()?]))
}

/// What a process is about to send.
fn sent(pid: Pid, [_, address, length]: [u64; 3]) -> Option<Vec<u8>> {
    let mut sent = vec![0; usize::try_from(length).ok()?];
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    memory.read_exact_at(&mut sent, address).ok()?;
    Some(sent)
}

/// The types of netlink messages, each in two parts: what it is, and whose. Nothing if they are none.
fn types(mut sent: &[u8]) -> Option<Vec<[u8; 2]>> {
    let mut types = Vec::new();
    while let [a, b, c, d, kind, whose, ..] = *sent {
        let length: usize = u32::from_ne_bytes([a, b, c, d]).try_into().ok()?;
        if length < 16 || length > sent.len() {
            return None;
        }
        types.push([kind, whose]);
        sent = sent.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    sent.is_empty().then_some(types)
}

/// Whether other processes may notice that a system call was made. To ask the kernel something changes
/// nothing.
fn acts(pid: Pid, call: i64, arguments: [u64; 3]) -> bool {
    const NF_TABLES: u8 = 10;
    // Types come in threes there (`linux/netfilter/nf_tables.h`), and in fours of links, addresses and
    // routes (`linux/rtnetlink.h`).
    let asks = |[kind, whose]: &[u8; 2]| match *whose {
        0 => kind % 4 == 2,
        NF_TABLES => kind % 3 == 1,
        _ => false,
    };
    match call {
        libc::SYS_sendto => {
            let types = sent(pid, arguments).and_then(|sent| types(&sent));
            !types.is_some_and(|all| all.iter().all(asks))
        }
        libc::SYS_sendmsg | libc::SYS_write | libc::SYS_writev => true,
        libc::SYS_clone | libc::SYS_fork | libc::SYS_vfork | libc::SYS_exit_group => true,
        libc::SYS_setns | libc::SYS_unshare | libc::SYS_kill | libc::SYS_wait4 => true,
        _ => false,
    }
}

/// Whether a system call looks at what others may change.
fn looks(call: i64) -> bool {
    [
        libc::SYS_sendto,
        libc::SYS_ioctl,
        libc::SYS_open,
        libc::SYS_openat,
        libc::SYS_pidfd_open,
        libc::SYS_readlink,
        libc::SYS_readlinkat,
    ]
    .contains(&call)
}

/// Whether a system call gives up a right for good.
fn gives_up(call: i64) -> bool {
    let ids = [libc::SYS_setgroups, libc::SYS_setresgid, libc::SYS_setresuid];
    ids.contains(&call) || call == libc::SYS_seccomp
}

/// The letter in `/proc/PID/stat` that tells what a helper's process does; nothing if it is gone.
fn state(pid: Pid) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.split_once("(netsetgo) ").and_then(|(_, rest)| rest.split(' ').next());
    state.unwrap_or_default().to_owned()
}

/// A run of the helper of which one process is stopped, and untraced.
pub(crate) struct Frozen {
    command: Child,
    /// Where it was stopped.
    pub(crate) stage: Stage,
    pids: Vec<Pid>,
}

impl Frozen {
    /// Waits until the process stands still, or has ended with its last system call.
    fn settle(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !["T", "Z", "X", ""].contains(&state(self.stage.pid).as_str()) {
            assert!(Instant::now() < deadline, "a stopped helper does not stand still");
            std::thread::yield_now();
        }
    }

    /// Those of its processes that live.
    pub(crate) fn living(&self) -> impl Iterator<Item = Pid> {
        self.pids.iter().copied().filter(|pid| !["Z", "X", ""].contains(&state(*pid).as_str()))
    }

    /// The pids of those of its processes that live, as seen in the world.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.living().filter_map(pid_inside).collect()
    }

    /// The pid of the stopped process, as seen in the world, if it lives.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.living().find(|pid| *pid == self.stage.pid).and_then(pid_inside)
    }

    /// Lets it run on to its end.
    pub(crate) fn thaw(self) -> Outcome {
        // It may have ended already, with the call before which it was stopped.
        let _ = kill(self.stage.pid, Signal::SIGCONT);
        self.command.wait_with_output().unwrap().into()
    }

    /// Ends it where it stands.
    pub(crate) fn kill(mut self) {
        for pid in self.living() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = self.command.wait();
    }
}
