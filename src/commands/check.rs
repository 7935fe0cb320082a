//! Is this machine ready? One line for each finding, with its remedy, and at the end a real attach.

use std::fs;

use caps::Capability;

use super::trial;
use crate::firewall::{self, others};
use crate::network::lease::{ADDRESS_BITS, MARK};
use crate::network::{Host, bridge};
use crate::privilege::caller::Caller;
use crate::privilege::capability::{self, Privilege};
use crate::report;
use crate::report::dns::Dns;
use crate::report::error::{Failed, Result};
use crate::request::policy::Grant;

/// An attach works as far as this finding goes.
const OK: &str = "ok  ";
/// An attach works, but the caller may miss something.
const WARN: &str = "warn";
/// An attach does not work.
const FAIL: &str = "fail";

/// What has been found: a line for each finding, and how many keep the caller from attaching.
#[derive(Debug, Default)]
struct Findings {
    text: String,
    failed: usize,
}

impl Findings {
    fn add(&mut self, level: &str, what: &str) {
        self.text += &format!("{level}  {}\n", report::shown(what));
        self.failed += usize::from(level == FAIL);
    }

    /// Notes a result, be it good or bad. Gives the value if there is one.
    fn note<T>(&mut self, about: &str, result: Result<T>, say: impl Fn(&T) -> String) -> Option<T> {
        match &result {
            Ok(value) => self.add(OK, &format!("{about}: {}", say(value))),
            Err(error) => self.add(FAIL, &format!("{about}: {error}")),
        }
        result.ok()
    }
}

/// Says whether an attach by this caller would work here. It is an error if it would not.
pub fn check(caller: &Caller) -> Result<()> {
    let mut findings = Findings::default();
    let privilege =
        findings.note("installation", caller.privilege(), |_| "it has its privilege".to_owned());
    let whole = privilege.is_some() && capability::holds(Capability::CAP_SYS_PTRACE);
    if privilege.is_some() && !whole {
        findings.add(
            WARN,
            "installation: without CAP_SYS_PTRACE, so crun's containers cannot be attached; install \
             it setuid, or with setcap cap_net_admin,cap_sys_ptrace=ep",
        );
    }
    let grant = findings.note("policy", Grant::of(caller), what_is_granted);
    namespaces(&mut findings, caller);
    if let (Some(privilege), Some(grant)) = (&privilege, &grant) {
        host(&mut findings, privilege, grant);
        name_service(&mut findings, grant);
    }
    if whole && findings.failed == 0 {
        findings.note("trial", trial::attach_and_leave(caller), |took| {
            format!("a namespace was attached in {:.1} ms, and is gone", took * 1e3)
        });
    } else {
        findings.add(WARN, "trial: not tried, because of the above");
    }
    report::print(&findings.text)?;
    match findings.failed {
        0 => Ok(()),
        count => Err(Failed::NotReady(count).into()),
    }
}

fn what_is_granted(grant: &Grant) -> String {
    let ports = match &grant.publish {
        None => "every host port".to_owned(),
        Some(none) if none.is_empty() => "no host ports".to_owned(),
        Some(some) => {
            let ranges: Vec<_> = some.iter().map(ToString::to_string).collect();
            format!("host ports {}", ranges.join(" "))
        }
    };
    let Grant { uid, links, bridge, address, nat, .. } = grant;
    let way_out = if *nat { "with" } else { "without" };
    format!("uid {uid} may have {links} containers on {bridge} ({address}, {way_out} nat), {ports}")
}

/// The kernel's switches that keep users from making namespaces. Not every kernel has every switch.
fn namespaces(findings: &mut Findings, caller: &Caller) {
    let before = findings.text.len();
    let has = |switch: &str, value: &str| {
        fs::read_to_string(format!("/proc/sys/{switch}")).is_ok_and(|now| now.trim() == value)
    };
    for name in ["max_user_namespaces", "max_net_namespaces"] {
        if has(&format!("user/{name}"), "0") {
            let what = format!("namespaces: user/{name} is 0; sysctl -w user.{name}=15000");
            findings.add(FAIL, &what);
        }
    }
    if !caller.is_root() && has("kernel/unprivileged_userns_clone", "0") {
        findings.add(
            FAIL,
            "namespaces: ordinary users may make none; sysctl -w kernel.unprivileged_userns_clone=1",
        );
    }
    if !caller.is_root() && has("kernel/apparmor_restrict_unprivileged_userns", "1") {
        findings.add(
            WARN,
            "namespaces: AppArmor lets only programs with a profile for it use them; give the \
             runner one (userns,), or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        );
    }
    if findings.text.len() == before {
        findings.add(OK, "namespaces: users may make user and network namespaces");
    }
}

/// The host's network, as far as a look can tell.
fn host(findings: &mut Findings, privilege: &Privilege, grant: &Grant) {
    let answers = |_: &Host| "it answers".to_owned();
    let Some(mut host) = findings.note("netlink", Host::open(privilege), answers) else { return };
    findings.note("bridge", bridge::find(&mut host, grant), |found| {
        let Grant { bridge, address, .. } = grant;
        match &found.link {
            None => format!("{bridge} is not there yet; the first attach makes it"),
            Some(_) if found.is_ready() => format!("{bridge} is up, with {address}"),
            Some(_) => format!("{bridge} is half made; the next attach completes it"),
        }
    });
    if !grant.nat {
        findings.add(WARN, "way out: nat = false in the policy, so containers have none");
    }
    findings.note("firewall", firewall::describe(&mut host, grant), |state| (*state).to_owned());
    if grant.nat {
        let (level, what) = match others::find_drop(&mut host, grant) {
            Ok(Some(what)) => (WARN, what),
            Ok(None) => (OK, "none visibly drops what is forwarded".to_owned()),
            Err(error) => (WARN, error.to_string()),
        };
        findings.add(level, &format!("other firewalls: {what}"));
    }
    packet_sockets(findings);
}

/// Programs of the host that get what containers send before any filter: a DHCP client there takes a
/// container's answers. The columns of the file are sk, RefCnt, Type, Proto, Iface, R, Rmem, User and Inode
/// (`packet_seq_show`, `net/packet/af_packet.c`); interface 0 stands for every one, protocol 0 for none.
fn packet_sockets(findings: &mut Findings) {
    let sockets = fs::read_to_string("/proc/net/packet").unwrap_or_default();
    for line in sockets.lines() {
        let [_, _, _, protocol, interface, _, _, user, _] =
            line.split_whitespace().collect::<Vec<_>>()[..]
        else {
            continue;
        };
        let index = interface.parse().ok();
        let hears = index.is_some_and(|index: u32| index == 0 || index & !ADDRESS_BITS == MARK);
        if hears && protocol != "0000" {
            let what = "gets what containers send before any filter (packet socket)";
            let remedy = "keep it off the interfaces ns*; ss -0pl shows it to root";
            return findings
                .add(WARN, &format!("other programs: one of uid {user} {what}; {remedy}"));
        }
    }
}

fn name_service(findings: &mut Findings, grant: &Grant) {
    let dns = Dns::of(grant);
    if dns.as_ref().is_ok_and(|dns| dns.nameservers.is_empty()) {
        return findings.add(WARN, &format!("name service: {}", Failed::NoNameServer));
    }
    findings.note("name service", dns, |dns| {
        let servers: Vec<_> = dns.nameservers.iter().map(ToString::to_string).collect();
        format!("containers are told of {}", servers.join(" "))
    });
}
