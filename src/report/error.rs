//! Every cause for which a run can fail, with its exit status and its one line.
//!
//! The text of an error says what was wrong, why, and what to do about it. What came from the caller
//! is printed escaped, so that no argument can forge a second line.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use nix::errno::Errno;
use thiserror::Error;

use crate::kernel::netlink;
use crate::request::address::{Cidr, IfName};
use crate::request::policy::PATH;
use crate::request::ports::Mapping;

/// The result of every step of a run.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, Error)]
pub enum Error {
    #[error("usage: {0}; see netsetgo -help")]
    Usage(#[from] Usage),
    #[error("refused: {0}")]
    Refused(#[from] Refused),
    #[error("{0}")]
    Failed(#[from] Failed),
}

/// The first of these that is so, as the error.
pub fn first_of<T: Copy>(faults: &[(bool, T)]) -> Result<(), T> {
    let found = faults.iter().find(|(is_so, _)| *is_so);
    found.map_or(Ok(()), |(_, fault)| Err(*fault))
}

impl Error {
    /// The exit status of the process: 1 failed, 2 usage, 3 refused.
    pub fn exit_status(&self) -> i32 {
        match self {
            Error::Failed(_) => 1,
            Error::Usage(_) => 2,
            Error::Refused(_) => 3,
        }
    }

    /// Whether this is the kernel's answer `errno` to a netlink request.
    pub fn is(&self, errno: Errno) -> bool {
        use Failed::{Firewall, Netlink};
        matches!(self, Error::Failed(Netlink(_, error) | Firewall(_, error)) if error.is(errno))
    }
}

/// What is wrong with a command line.
#[derive(Debug, Error, PartialEq)]
pub enum Usage {
    #[error("{0}")]
    Option(String),
    #[error("unexpected argument {0:?}")]
    Extra(String),
    #[error(
        "say which container, with -pid N or -netns PATH (or -delete with -address, -id or -user)"
    )]
    NoTarget,
    #[error("-pid {0:?}: not a process id between 1 and {1}")]
    Pid(String, i32),
    #[error("-{0} {1:?}: {2}")]
    Value(&'static str, String, &'static str),
    #[error("-publish {0}: given twice, or another -publish has the same host port")]
    PublishTwice(Mapping),
    #[error("-publish: more than {0} ports")]
    PublishMany(usize),
    #[error("-publish: {0} is not an address of this host")]
    HostAddress(Ipv4Addr),
    #[error("-hook: the container's state on standard input: {0}")]
    State(String),
    #[error("-{0} and -{1} exclude each other")]
    Exclusive(&'static str, &'static str),
    #[error("-{0}: only with -{1}")]
    Only(&'static str, &'static str),
}

/// Why a caller may not have what they ask for.
#[derive(Debug, Error)]
pub enum Refused {
    #[error("{0}: not yours, or gone; a container is attached by the user who started it")]
    Target(String),
    #[error(
        "{0}: in the host's own network namespace; start it in a new one (unshare -Urn, or a \
         namespace of type network in config.json), or wait longer for that with -wait"
    )]
    HostNamespace(String),
    #[error(
        "{0}: its process is not dumpable, and netsetgo is installed without CAP_SYS_PTRACE; \
         install it setuid, or with setcap cap_net_admin,cap_sys_ptrace=ep"
    )]
    NotDumpable(String),
    #[error("{PATH:?}: missing, so only root may attach; the admin writes it (netsetgo.toml(5))")]
    NoPolicy,
    #[error("{PATH:?}: {0}; make it a regular file only root can write (chown root, chmod 644)")]
    UntrustedPolicy(&'static str),
    #[error("uid {0}: not allowed by {PATH:?}; ask the admin for an [[allow]] entry")]
    NotAllowed(u32),
    #[error("-{0} {1}: the policy grants {2} only")]
    Another(&'static str, String, String),
    #[error(
        "quota used up: all {0} links of uid {1} are taken; stop a container, raise links in the \
         policy, or wait with -wait for a container to end"
    )]
    Quota(u32, u32),
    #[error(
        "-publish: no host ports are granted to uid {0}; ask the admin to list some in the policy \
         (publish = [\"8000-8999\"])"
    )]
    NoPorts(u32),
    #[error(
        "-publish: uid {1} may have {0} host ports published at once; stop a container that \
         publishes some, or ask the admin for more (ports in the policy)"
    )]
    PortQuota(u32, u32),
    #[error(
        "-user: only root takes a user's containers' network away; delete yours with -address or -id"
    )]
    OnlyRoot,
    #[error("-publish: the policy has nat = false, so the host forwards nothing")]
    NoNat,
    #[error(
        "-publish {0}: host port {port} is not granted to uid {1}; ask the admin to add it to the \
         policy (publish = [\"{port}\"])", port = .0.host_port
    )]
    Port(Mapping, u32),
}

/// How the program was installed or called, so that it lacks its privilege.
#[derive(Debug, Clone, Copy, Error)]
pub enum Unprivileged {
    #[error(
        "not installed setuid: CAP_NET_ADMIN is not held; run install.sh, or chown root and chmod 4755"
    )]
    NotSetuid,
    #[error("run under a tracer: the setuid bit does not count; call it without strace or gdb")]
    Traced,
    #[error("on a nosuid mount: the setuid bit does not count there; install netsetgo elsewhere")]
    NoSuidMount,
    #[error(
        "run with no_new_privs: the setuid bit does not count; call netsetgo from a process \
         without it (NoNewPrivileges=, --security-opt)"
    )]
    NoNewPrivs,
    #[error(
        "run inside a user namespace: no setuid bit counts there; call netsetgo from outside, \
         with the container's process id as seen there"
    )]
    InsideUserNamespace,
}

#[derive(Debug, Error)]
pub enum Failed {
    // How the program was installed or called.
    #[error(transparent)]
    Unprivileged(#[from] Unprivileged),
    #[error("becoming the caller: {0}: {1}")]
    Caller(&'static str, String),

    // The files that a run reads.
    #[error("{0:?}: {1}")]
    File(PathBuf, std::io::Error),
    #[error("{PATH:?}: line {line}, column {column}: {why}")]
    Policy { line: usize, column: usize, why: String },
    #[error("{PATH:?}: the admin has changed it during this call; call netsetgo again")]
    PolicyChanged,

    // The target and the child inside.
    #[error("{0}: {1}")]
    Target(String, Errno),
    #[error("{0}: exited while it was being attached")]
    TargetGone(String),
    #[error(
        "the system call filter (seccomp): {0}; the kernel needs CONFIG_SECCOMP_FILTER, and a \
         sandbox around netsetgo has to allow the system call seccomp"
    )]
    Filter(Errno),
    #[error("starting a child process: {0}{1}")]
    Fork(Errno, &'static str),
    #[error("inside the container: {step}: {errno}{remedy}")]
    Inside { step: String, errno: Errno, remedy: &'static str },
    #[error("inside the container: the child that works there ended early")]
    ChildGone,
    #[error(
        "{0}: exists inside the container already, and netsetgo did not make it for you; choose \
         another name with -ifname"
    )]
    NameInside(IfName),
    #[error("{0}: attached already, with {1}; stop the container to change its address")]
    AttachedAlready(IfName, Cidr),

    // The host's side.
    #[error("{0}: exists and is not a bridge; choose another name in the policy (bridge = ...)")]
    NotABridge(IfName),
    #[error("{0}: has another address, not {1}; give the bridge that address, or use another")]
    BridgeAddress(IfName, Cidr),
    #[error(
        "{0}: deleted or changed while a container was being attached to it; call netsetgo again"
    )]
    BridgeGone(IfName),
    #[error(
        "{0}: the bridge that this container was attached to was deleted; take its network away \
         (netsetgo -delete) or restart it, and attach it anew"
    )]
    BridgeDeleted(IfName),
    #[error(
        "{0}: overlaps the route to {1} of another interface; choose a free subnet in the policy \
         (address = ...)"
    )]
    Overlap(Cidr, Cidr),
    #[error("{0} {1}: {2}")]
    Address(&'static str, Cidr, &'static str),
    #[error(
        "-containerAddress {0}: leased to another container; leave the option out to get a free \
         address, or wait with -wait for that container to end"
    )]
    Leased(Ipv4Addr),
    #[error("{0}: exists on the host already; choose another -vethNamePrefix")]
    HostName(IfName),
    #[error("{0}: every address is leased; stop a container, or use a larger subnet (up to /22)")]
    SubnetFull(Cidr),
    #[error("{0}: has 1023 ports, the most a bridge can have; stop a container first")]
    BridgeFull(IfName),
    #[error("-mtu {0}: more than {1}, the MTU of the bridge; choose at most that")]
    Mtu(u32, u32),
    #[error("too many other runs at this moment; try again")]
    Contended,
    #[error("{0}: {1}")]
    Netlink(&'static str, netlink::Error),
    #[error("the veth pair was deleted from inside during the attach; call netsetgo again")]
    LeaseLost,

    // The firewall, and published ports.
    #[error(
        "the firewall (nftables, tables netsetgo of the families inet and bridge): {0}: {1}; \
         without it a container could send as another, so the kernel needs nf_tables for both"
    )]
    Firewall(&'static str, netlink::Error),
    #[error("{0:?}: {2}; write {1} there as root, or set nat = false in the policy")]
    Sysctl(PathBuf, String, std::io::Error),
    #[error(
        "-publish {0}: a program on this host listens on port {port}; stop it, or choose another \
         port", port = .0.host_port
    )]
    PortInUse(Mapping),
    #[error(
        "-publish {0}: port {port} is published already, for {1}; choose another, or wait with \
         -wait for that container to end", port = .0.host_port
    )]
    PortPublished(Mapping, Ipv4Addr),
    #[error(
        "-publish {0}: host port {port} is taken by DNAT of {1}; choose another port, or remove \
         that rule", port = .0.host_port
    )]
    PortTranslated(Mapping, String),
    #[error("-publish: a container has {0} published ports at most; publish fewer")]
    ManyPorts(usize),
    #[error(
        "-publish {0}: none of the host ports that the policy grants you is free; stop a \
         container, or ask the admin for more"
    )]
    NoFreePort(Mapping),

    // The report, and what it needs.
    #[error(
        "-resolvconf: no name server that a container can reach is known; ask the admin to \
         name one in the policy (dns = [\"...\"])"
    )]
    NoNameServer,
    #[error("making a user and a network namespace: {0}; see the findings on namespaces above")]
    Trial(Errno),
    #[error("this machine is not ready: {0} of the findings above would keep you from attaching")]
    NotReady(usize),
    #[error("standard output: {0}")]
    Output(Errno),
}

impl Failed {
    /// For `map_err`: the netlink request for `what` failed.
    pub fn netlink(what: &'static str) -> impl Fn(netlink::Error) -> Error {
        move |error| Failed::Netlink(what, error).into()
    }
}
