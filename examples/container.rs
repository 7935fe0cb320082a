//! A small rootless container runner, in the spirit of the namespaces-in-Go series.
//!
//! ```text
//! cargo run --example container -- run [--rootfs DIR] [--publish HOST:PORT]... CMD [ARG...]
//! ```
//!
//! CMD runs as root of a user namespace of its own, in which only the caller's uid and gid exist,
//! with its own mounts, processes, host name and network. With `--rootfs` its root directory is
//! DIR, whose `etc/resolv.conf` is replaced; otherwise it is the host's, with another file mounted
//! over that one. `--publish` is handed to netsetgo as it is. The exit status is CMD's, or 128+n if
//! signal n killed it; 125 is a failure of the runner, 126 a CMD that cannot be run, 127 one that
//! does not exist.
//!
//! The network is the one thing here that an ordinary user may not make: a wire to the host has to
//! be plugged in from outside. `netsetgo` does that, found in PATH or named by the environment
//! variable NETSETGO.
//!
//! There are three processes, each a fresh start of this program: nothing runs between a `fork` and
//! its `exec`, and so nothing needs `unsafe`.
//!
//! 1. `run`, the runner, stays on the host, starts 2 and waits until it reads "ready" from a pipe.
//! 2. `child` enters the new namespaces and maps the ids. A new pid namespace holds not the process
//!    that asked for it but those that it starts, so it starts
//! 3. `init`, pid 1 inside, which mounts, changes the root, subscribes to route changes and only
//!    then says "ready": no change can slip past, and what can fail has failed before the network
//!    is asked for.
//!
//! Now 1 calls `netsetgo -pid` for 2, which is in the same network namespace as 3. Meanwhile 3
//! sleeps until the kernel announces a default route, the last thing to appear. It also wakes when
//! nobody is left to read the pipe: then the runner is gone, and no network will come. What netsetgo
//! said of name service 1 hands on through a second pipe, as a `resolv.conf`; 3 puts it into place,
//! from inside, where no link in an image leads to a file of the host, and starts CMD.
//!
//! Left out, as beside the point: `/dev`, cgroups, seccomp, a terminal of its own.

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
/// Never needed but with a helper that claims a success which it did not have.
const PATIENCE: Duration = Duration::from_secs(10);
/// The exit status for failures of the runner's own.
const RUNNER_FAILED: u8 = 125;
const USAGE: &str =
    "usage: container run [--rootfs DIR] [--publish [IP:]HOST:PORT[/tcp|udp]]... CMD [ARG...]";
/// Where programs look for name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// For those arguments of mount(2) that a call has no use for.
const NOTHING: Option<&str> = None;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// For `map_err`: says what was being done when the error came up.
fn doing<E: Display>(what: impl Display) -> impl FnOnce(E) -> Box<dyn Error> {
    move |error| format!("{what}: {error}").into()
}

/// One line on standard error, in one piece. `eprintln` would panic where that is closed.
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

/// What to run, and with what. The order is handed from stage to stage as it was given.
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
    // Rust makes descriptors that close on exec. These are to reach init, by their numbers.
    for theirs in [their_ready.as_fd(), their_dns.as_fd()] {
        fcntl(theirs, FcntlArg::F_SETFD(FdFlag::empty())).map_err(doing("pass on a pipe"))?;
    }
    let mut child = Command::new(SELF)
        .arg("child")
        .arg(format!("{},{}", their_ready.as_raw_fd(), their_dns.as_raw_fd()))
        .args(order)
        .spawn()
        .map_err(doing("start the child"))?;
    drop((their_ready, their_dns)); // or their end would never be seen

    // The end, and nothing before it: the child has failed and said why, its status is next.
    if ready.read(&mut [0]).map_err(doing("wait for the child"))? > 0 {
        let attached = attach(child.id(), &publish)
            .and_then(|text| dns.write_all(text.as_bytes()).map_err(doing("tell the child")));
        if let Err(error) = attached {
            let _ = child.kill(); // init dies with it, CMD with init
            let _ = child.wait();
            return Err(error);
        }
    }
    drop(dns); // the end of what init reads
    wait_for(&mut child) // the other pipe is held until then
}

/// Has the helper give the child's network namespace its wire, address and route, and its published
/// ports. Answers the `resolv.conf` for it.
fn attach(pid: u32, publish: &[&OsStr]) -> Result<String> {
    let helper = env::var_os("NETSETGO").unwrap_or_else(|| "netsetgo".into());
    let name = helper.display();
    let output = Command::new(&helper)
        .args(["-pid", &pid.to_string(), "-json"])
        .args(publish.iter().flat_map(|ports| [OsStr::new("-publish"), ports]))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit()) // it explains itself better than its exit status does
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
    // Not of CNI's, but written as its plugins are told of ports.
    for port in result.get("portMappings").and_then(Value::as_array).into_iter().flatten() {
        let ip = port["hostIP"].as_str().map(|ip| format!("{ip}:")).unwrap_or_default();
        let protocol = port["protocol"].as_str().unwrap_or_default();
        let (outer, inner) = (&port["hostPort"], &port["containerPort"]);
        say(format_args!("the host's {ip}{outer} leads to its {inner}/{protocol}"));
    }
    Ok(result.get("dns").map(resolv_conf).unwrap_or_default())
}

/// The `dns` of a CNI result as a `resolv.conf`. (`netsetgo -resolvconf` prints it ready-made, to
/// whoever has no use for the rest.)
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

/// Stage 2, which enters the namespaces: in one call, for which the kernel makes the user namespace
/// first, and the others with the rights that this process has there.
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
    // An ordinary user may map himself and nobody else, and his gid only once he has renounced
    // setgroups: whoever drops a group can get in where just that group is kept out.
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ] {
        fs::write(file, text).map_err(doing(file))?;
    }
    sethostname("container").map_err(doing("set the host name"))?;

    // Dies with the runner from now on, as init does with this process. If the runner is dead
    // already, init learns it from the pipe.
    set_pdeathsig(Signal::SIGKILL).map_err(doing("follow the runner"))?;
    let mut init = Command::new(SELF)
        .arg("init")
        .arg(pipes)
        .args(order)
        .spawn()
        .map_err(doing("start init"))?;
    wait_for(&mut init)
}

/// Waits for the next stage and ends like it. Ctrl-C and Ctrl-\ reach every process at the
/// terminal; what they mean, CMD alone is to decide.
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

    // Nothing mounted here is to show on the host; besides, pivot_root insists.
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

/// Opens the pipes whose numbers were inherited once more and closes the numbers: the results have
/// an owner without `unsafe`, and are closed on exec, so that CMD does not get them.
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

/// Only a process of the new pid namespace can mount the `/proc` that shows it, and only while an
/// old one is in sight: an ordinary user's mount must not uncover what the host has covered.
fn mount_proc() -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, NOTHING).map_err(doing("mount /proc"))
}

/// Makes `dir` the root directory, with a `/proc`.
fn change_root(dir: &Path) -> Result<()> {
    // pivot_root wants a mount, not just any directory.
    mount(Some(dir), dir, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)?;
    env::set_current_dir(dir)?;
    // With "." for both, the old root ends up on top of the new one and needs no directory in it:
    // "/" is the new root, and "." for umount2 what lies on top there.
    pivot_root(".", ".").map_err(doing("pivot_root"))?;
    fs::create_dir_all("/proc").map_err(doing("/proc"))?;
    mount_proc()?;
    umount2(".", MntFlags::MNT_DETACH).map_err(doing("detach the old root"))?;
    Ok(env::set_current_dir("/")?)
}

/// In an image this file is often a symbolic link: it is replaced, not followed. And from in here,
/// no link in place of `/etc` leads to the host's.
fn replace_resolv_conf(text: &str) -> io::Result<()> {
    fs::create_dir_all("/etc")?;
    match fs::remove_file(RESOLV_CONF) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => fs::write(RESOLV_CONF, text),
    }
}

/// The host's own file stays as it is: another one is mounted over it, in here alone. It has to be
/// on some mount, which need not be seen any more once the file is.
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
            PollFd::new(pipe.as_fd(), PollFlags::empty()), // POLLERR, without asking: no reader
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

/// Reads one change. Only CMD could forge one, and that has not started yet.
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

/// A pid 1's work: every orphan is its child, to be waited for. When it exits, the kernel kills the
/// rest.
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
