//! A small rootless container runner, in the spirit of the namespaces-in-Go series.
//!
//! ```text
//! cargo run --example container -- run [--rootfs DIR] [--publish HOST:PORT]... CMD [ARG...]
//! ```
//!
//! CMD runs as root of a user namespace of its own, in which only the caller's uid and gid exist. It
//! has its own mounts, processes, host name and network. With `--rootfs` its root directory is DIR,
//! and `etc/resolv.conf` there is replaced. Otherwise it is the host's, and another file is mounted
//! over `/etc/resolv.conf`. netsetgo gets `--publish` as it is. The exit status is that of CMD, or
//! 128+n if signal n killed CMD. 125 is a failure of the runner, 126 means that CMD cannot be run,
//! 127 that CMD does not exist.
//!
//! The network is the only part that an ordinary user may not make: a veth pair to the host has to be
//! made from outside. `netsetgo` does that. It is found in PATH, or named by the environment variable
//! NETSETGO.
//!
//! There are three processes. Each is a fresh start of this program: no code runs between a `fork`
//! and its `exec`, so no code needs `unsafe`.
//!
//! 1. `run`, the runner, stays on the host, starts 2 and waits until it reads "ready" from a pipe.
//! 2. `child` enters the new namespaces and maps the ids. A process does not enter the pid namespace
//!    that it makes, but its children do. So it starts
//! 3. `init`, pid 1 inside. It mounts, changes the root, subscribes to route changes, and only then
//!    says "ready". So it misses no route change, and most errors come before the network is made.
//!
//! Now 1 calls `netsetgo -pid` for 2, which is in the same network namespace as 3. Meanwhile 3 sleeps
//! until the kernel announces a default route, which is made last. It also wakes when the pipe has no
//! reader any more: then the runner is gone, and no network will come. 1 makes a `resolv.conf` of
//! what netsetgo tells about name servers, and passes it on through a second pipe. 3 puts it into
//! place, from inside, where no link in an image leads to a file of the host. Then 3 starts CMD.
//!
//! This example leaves out `/dev`, cgroups, seccomp and a terminal of its own.

use std::env;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, close, getegid, geteuid, pivot_root, sethostname};
use serde_json::Value;

/// The program of every stage.
const SELF: &str = "/proc/self/exe";
/// The multicast group of IPv4 route changes, from `linux/rtnetlink.h`.
const RTNLGRP_IPV4_ROUTE: u32 = 7;
/// How long init waits for the network. Needed only if the helper reports success without having it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The exit status for failures of the runner's own.
const RUNNER_FAILED: u8 = 125;
const USAGE: &str =
    "usage: container run [--rootfs DIR] [--publish [IP:]HOST:PORT[/tcp|udp]]... CMD [ARG...]";
/// Where programs look for name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// For arguments of mount(2) that a call does not use.
const NOTHING: Option<&str> = None;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// For `map_err`: says what the program was doing when the error occurred.
fn doing<E: Display>(what: impl Display) -> impl FnOnce(E) -> Box<dyn Error> {
    move |error| format!("{what}: {error}").into()
}

/// Prints one line on standard error, in one piece. `eprintln` panics if standard error is closed.
fn say(what: impl Display) {
    let _ = io::stderr().write_all(format!("container: {what}\n").as_bytes());
}

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    let status = match args.as_slice() {
        [stage, order @ ..] if stage == "run" => run(order),
        [stage, pipes, order @ ..] if stage == "child" => child(pipes, order),
        [stage, pipes, order @ ..] if stage == "init" => init(pipes, order),
        _ => Err(USAGE.into()),
    };
    ExitCode::from(status.unwrap_or_else(|error| {
        say(error);
        RUNNER_FAILED
    }))
}

/// What to run, and with what. Each stage passes the order on as the caller gave it.
struct Order<'a> {
    rootfs: Option<&'a Path>,
    publish: Vec<&'a OsStr>,
    program: &'a OsStr,
    args: &'a [OsString],
}

fn parse(mut order: &[OsString]) -> Result<Order<'_>> {
    let (mut rootfs, mut publish) = (None, Vec::new());
    loop {
        order = match order {
            [option, dir, rest @ ..] if option == "--rootfs" => {
                rootfs = Some(Path::new(dir));
                rest
            }
            [option, ports, rest @ ..] if option == "--publish" => {
                publish.push(ports.as_os_str());
                rest
            }
            [program, args @ ..] if !program.as_encoded_bytes().starts_with(b"-") => {
                return Ok(Order { rootfs, publish, program, args });
            }
            _ => return Err(USAGE.into()),
        };
    }
}

/// Stage 1, on the host.
fn run(order: &[OsString]) -> Result<u8> {
    let publish = parse(order)?.publish;
    let (mut ready, their_ready) = io::pipe().map_err(doing("make a pipe"))?;
    let (their_dns, mut dns) = io::pipe().map_err(doing("make a pipe"))?;
    // Rust makes descriptors that close on exec. Init needs these two, and gets their numbers.
    for theirs in [their_ready.as_fd(), their_dns.as_fd()] {
        fcntl(theirs, FcntlArg::F_SETFD(FdFlag::empty())).map_err(doing("pass on a pipe"))?;
    }
    let mut child = Command::new(SELF)
        .arg("child")
        .arg(format!("{},{}", their_ready.as_raw_fd(), their_dns.as_raw_fd()))
        .args(order)
        .spawn()
        .map_err(doing("start the child"))?;
    drop((their_ready, their_dns)); // otherwise this process never sees the end of the pipe

    // If the pipe ends without a byte, the child has failed and said why. Its status comes next.
    if ready.read(&mut [0]).map_err(doing("wait for the child"))? > 0 {
        let attached = attach(child.id(), &publish)
            .and_then(|text| dns.write_all(text.as_bytes()).map_err(doing("tell the child")));
        if let Err(error) = attached {
            let _ = child.kill(); // init dies with it, CMD with init
            let _ = child.wait();
            return Err(error);
        }
    }
    drop(dns); // init reads until here
    wait_for(&mut child) // the other pipe stays open until then
}

/// Calls the helper, which gives the child's network namespace its veth pair, address, route and
/// published ports. Returns the `resolv.conf` for it.
fn attach(pid: u32, publish: &[&OsStr]) -> Result<String> {
    let helper = env::var_os("NETSETGO").unwrap_or_else(|| "netsetgo".into());
    let name = helper.display();
    let output = Command::new(&helper)
        .args(["-pid", &pid.to_string(), "-json"])
        .args(publish.iter().flat_map(|ports| [OsStr::new("-publish"), ports]))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit()) // its message explains more than its exit status
        .output()
        .map_err(doing(format_args!("run the helper {name}")))?;
    if !output.status.success() {
        return Err(format!("no network from {name}: {}", output.status).into());
    }
    // A CNI result: https://www.cni.dev/docs/spec/#success
    let result: Value = serde_json::from_slice(&output.stdout)
        .map_err(doing(format_args!("understand the helper {name}")))?;
    let ip = |key| result.pointer(key).and_then(Value::as_str);
    if let (Some(address), Some(gateway)) = (ip("/ips/0/address"), ip("/ips/0/gateway")) {
        say(format_args!("{address} by way of {gateway}"));
    }
    // CNI has no such key in a result. The form is that in which its plugins are given ports.
    for port in result.get("portMappings").and_then(Value::as_array).into_iter().flatten() {
        let ip = port["hostIP"].as_str().map(|ip| format!("{ip}:")).unwrap_or_default();
        let protocol = port["protocol"].as_str().unwrap_or_default();
        let (outer, inner) = (&port["hostPort"], &port["containerPort"]);
        say(format_args!("the host's {ip}{outer} leads to its {inner}/{protocol}"));
    }
    Ok(result.get("dns").map(resolv_conf).unwrap_or_default())
}

/// The `dns` of a CNI result as a `resolv.conf`. (`netsetgo -resolvconf` prints it ready-made, for
/// runners that do not need the rest.)
fn resolv_conf(dns: &Value) -> String {
    let words = |key: &str| -> Vec<&str> {
        dns[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let mut text = String::new();
    for server in words("nameservers") {
        text += &format!("nameserver {server}\n");
    }
    for key in ["search", "options"] {
        if !words(key).is_empty() {
            text += &format!("{key} {}\n", words(key).join(" "));
        }
    }
    text
}

/// Stage 2, which enters the namespaces in one call. The kernel makes the user namespace first, and
/// the others with the rights that this process has there.
fn child(pipes: &OsStr, order: &[OsString]) -> Result<u8> {
    let (uid, gid) = (geteuid(), getegid()); // once inside, unmapped, both would read 65534
    unshare(
        CloneFlags::CLONE_NEWUSER
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWNET,
    )
    .map_err(doing("make namespaces"))?;
    // An ordinary user may map only the own uid, and the own gid only after giving up setgroups: a
    // user who can drop a group gets to files that exclude this group.
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ] {
        fs::write(file, text).map_err(doing(file))?;
    }
    sethostname("container").map_err(doing("set the host name"))?;

    // From now on this process dies with the runner, and init dies with this process. If the runner
    // is dead already, init sees it at the pipe.
    set_pdeathsig(Signal::SIGKILL).map_err(doing("follow the runner"))?;
    let mut init = Command::new(SELF)
        .arg("init")
        .arg(pipes)
        .args(order)
        .spawn()
        .map_err(doing("start init"))?;
    wait_for(&mut init)
}

/// Waits for the next stage and ends with its status. Ctrl-C and Ctrl-\ reach every process at the
/// terminal, but only CMD decides what they mean.
fn wait_for(stage: &mut Child) -> Result<u8> {
    let keys = SigSet::from_iter([Signal::SIGINT, Signal::SIGQUIT]);
    keys.thread_block().map_err(doing("block signals"))?;
    let end = stage.wait().map_err(doing("wait for the next stage"))?;
    let status = end.code().or_else(|| end.signal().map(|signal| 128 + signal));
    Ok(status.and_then(|status| u8::try_from(status).ok()).unwrap_or(RUNNER_FAILED))
}

/// Stage 3, pid 1 of the container.
fn init(pipes: &OsStr, order: &[OsString]) -> Result<u8> {
    set_pdeathsig(Signal::SIGKILL).map_err(doing("follow the child"))?;
    let Order { rootfs, program, args, .. } = parse(order)?;
    let (mut ready, mut dns) = take_over(pipes).map_err(doing("take over the pipes"))?;

    // What is mounted here must not show on the host. pivot_root demands it as well.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NOTHING, "/", NOTHING, private, NOTHING).map_err(doing("make mounts private"))?;
    match rootfs {
        Some(dir) => change_root(dir).map_err(doing(dir.display()))?,
        None => mount_proc()?,
    }

    let mut routes = Socket::new(NETLINK_ROUTE).map_err(doing("open a route socket"))?;
    routes.bind(&SocketAddr::new(0, 0)).map_err(doing("bind the route socket"))?;
    routes.add_membership(RTNLGRP_IPV4_ROUTE).map_err(doing("subscribe to routes"))?;
    ready.write_all(b"!").map_err(doing("tell the runner"))?;
    wait_for_route(&routes, &ready)?;
    let mut text = String::new();
    dns.read_to_string(&mut text).map_err(doing("hear from the runner"))?;
    match rootfs {
        Some(_) => replace_resolv_conf(&text).map_err(doing(RESOLV_CONF))?,
        None => cover_resolv_conf(&text).map_err(doing(RESOLV_CONF))?,
    }
    drop((ready, dns, routes));

    match Command::new(program).args(args).spawn() {
        Ok(command) => reap_until(command.id()),
        Err(error) => {
            say(format_args!("{}: {error}", program.display()));
            Ok(if error.kind() == ErrorKind::NotFound { 127 } else { 126 })
        }
    }
}

/// Opens the inherited pipes once more and closes their old numbers. So the results have an owner
/// without `unsafe`, and close on exec: CMD does not get them.
fn take_over(numbers: &OsStr) -> io::Result<(File, File)> {
    let (ready, dns) = numbers.to_str().and_then(|n| n.split_once(',')).ok_or(Errno::EBADF)?;
    let open = |number: &str, how: &OpenOptions| {
        let number: RawFd = number.parse().map_err(|_| Errno::EBADF)?;
        let pipe = how.open(format!("/proc/self/fd/{number}"))?;
        close(number)?;
        io::Result::Ok(pipe)
    };
    Ok((open(ready, OpenOptions::new().write(true))?, open(dns, OpenOptions::new().read(true))?))
}

/// Only a process of the new pid namespace can mount the `/proc` that shows it. The kernel allows it
/// only while an old `/proc` is visible: an ordinary user's mount must not uncover what the host has
/// covered.
fn mount_proc() -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, NOTHING).map_err(doing("mount /proc"))
}

/// Makes `dir` the root directory, with a `/proc`.
fn change_root(dir: &Path) -> Result<()> {
    // pivot_root needs a mount, not a plain directory.
    mount(Some(dir), dir, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)?;
    env::set_current_dir(dir)?;
    // With "." for both, the old root is mounted on top of the new one and needs no directory in it.
    // Then "/" is the new root, and "." for umount2 is the old one, on top.
    pivot_root(".", ".").map_err(doing("pivot_root"))?;
    fs::create_dir_all("/proc").map_err(doing("/proc"))?;
    mount_proc()?;
    umount2(".", MntFlags::MNT_DETACH).map_err(doing("detach the old root"))?;
    Ok(env::set_current_dir("/")?)
}

/// In an image this file is often a symbolic link: it is replaced, not followed. Inside, no link in
/// place of `/etc` leads to the host's.
fn replace_resolv_conf(text: &str) -> io::Result<()> {
    fs::create_dir_all("/etc")?;
    match fs::remove_file(RESOLV_CONF) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => fs::write(RESOLV_CONF, text),
    }
}

/// The host's own file stays as it is: another one is mounted over it, only in here. That file has to
/// be on a mount, which may go once the file is in place.
fn cover_resolv_conf(text: &str) -> Result<()> {
    if text.is_empty() || !fs::exists(RESOLV_CONF)? {
        return Ok(());
    }
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), NOTHING)?;
    fs::write("/tmp/resolv.conf", text)?;
    mount(Some("/tmp/resolv.conf"), RESOLV_CONF, NOTHING, MsFlags::MS_BIND, NOTHING)?;
    Ok(umount2("/tmp", MntFlags::MNT_DETACH)?)
}

/// Sleeps until there is a default route.
fn wait_for_route(routes: &Socket, pipe: &File) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut watched = [
            PollFd::new(routes.as_fd(), PollFlags::POLLIN),
            PollFd::new(pipe.as_fd(), PollFlags::empty()), // POLLERR always counts: no reader
        ];
        if poll(&mut watched, PollTimeout::try_from(left)?).map_err(doing("poll"))? == 0 {
            return Err(format!("no network after {} seconds", PATIENCE.as_secs()).into());
        }
        let [changed, abandoned] = watched.map(|fd| fd.any().unwrap_or(true));
        if abandoned {
            return Err("the runner is gone".into());
        }
        if changed && is_default_route(routes).map_err(doing("read the route socket"))? {
            return Ok(());
        }
    }
}

/// Reads one change. Only CMD could forge one, and CMD has not started yet.
fn is_default_route(routes: &Socket) -> Result<bool> {
    let (bytes, _) = routes.recv_from_full()?;
    Ok(match NetlinkMessage::deserialize(&bytes)?.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
            route.header.address_family == AddressFamily::Inet
                && route.header.destination_prefix_length == 0
        }
        _ => false,
    })
}

/// The work of pid 1: every orphan becomes its child, and it waits for each. When it exits, the kernel
/// kills the rest.
fn reap_until(command: u32) -> Result<u8> {
    loop {
        let (pid, status) = match waitpid(None::<Pid>, None) {
            Ok(WaitStatus::Exited(pid, status)) => (pid, status),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
            Ok(_) | Err(Errno::EINVAL) => continue, // EINVAL: a real-time signal, unknown to nix
            Err(error) => return Err(doing("wait for the command")(error)),
        };
        if u32::try_from(pid.as_raw()) == Ok(command) {
            return Ok(u8::try_from(status)?);
        }
    }
}
