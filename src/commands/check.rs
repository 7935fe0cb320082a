//! Is this machine ready? One line for each finding, with what to do about it, and at the end a real
//! attach of a namespace made for it.

use std::fs;

use caps::Capability;

use super::trial;
use crate::firewall::{self, others};
use crate::network::{Host, bridge};
use crate::privilege::caller::Caller;
use crate::privilege::capability::Privilege;
use crate::report;
use crate::report::dns::Dns;
use crate::report::error::{Error, Failed, Result};
use crate::request::policy::Grant;

/// How a finding bears on an attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Not at all.
    Ok,
    /// It would work, but somebody may miss something.
    Warn,
    /// It would not work.
    Fail,
}

/// What has been found, in the order in which it is said.
#[derive(Debug, Default)]
struct Findings(Vec<(Level, String)>);

impl Findings {
    fn add(&mut self, level: Level, what: impl Into<String>) {
        self.0.push((level, what.into()));
    }

    /// Notes a result, in either case. Gives what there is to go on with.
    fn note<T>(
        &mut self,
        about: &str,
        result: Result<T>,
        fine: impl Fn(&T) -> String,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.add(Level::Ok, format!("{about}: {}", fine(&value)));
                Some(value)
            }
            Err(error) => {
                self.add(Level::Fail, format!("{about}: {error}"));
                None
            }
        }
    }

    fn failed(&self) -> usize {
        self.0.iter().filter(|(level, _)| *level == Level::Fail).count()
    }

    fn text(&self) -> String {
        let line = |(level, what): &(Level, String)| {
            let word = match level {
                Level::Ok => "ok  ",
                Level::Warn => "warn",
                Level::Fail => "fail",
            };
            let what: String = what.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            format!("{word}  {what}\n")
        };
        self.0.iter().map(line).collect()
    }
}

/// Says whether an attach by this caller would work here.
///
/// # Errors
/// [`Failed::NotReady`] when it would not, [`Failed::Output`].
pub fn check(caller: &Caller) -> Result<()> {
    let mut findings = Findings::default();
    let privilege =
        findings.note("installation", caller.privilege(), |_| "it has its privilege".to_owned());
    if let Some(privilege) = &privilege
        && !privilege.holds(Capability::CAP_SYS_PTRACE)
    {
        findings.add(
            Level::Warn,
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
    match (&privilege, findings.failed()) {
        (Some(privilege), 0) if privilege.holds(Capability::CAP_SYS_PTRACE) => {
            findings.note("trial", trial::attach_and_leave(caller), |took| {
                format!("a namespace was attached in {:.1} ms, and is gone", took * 1e3)
            });
        }
        _ => findings.add(Level::Warn, "trial: not tried, because of the above"),
    }
    report::print(&findings.text())?;
    match findings.failed() {
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

/// What keeps ordinary users from making namespaces.
fn namespaces(findings: &mut Findings, caller: &Caller) {
    let switch = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let before = findings.0.len();
    for kind in ["user", "net"] {
        let name = format!("user/max_{kind}_namespaces");
        if switch(&format!("/proc/sys/{name}")).as_deref() == Some("0") {
            let remedy = format!("sysctl -w {}=15000", name.replace('/', "."));
            findings.add(Level::Fail, format!("namespaces: {name} is 0; {remedy}"));
        }
    }
    if !caller.is_root() {
        let debian = "kernel/unprivileged_userns_clone";
        if switch(&format!("/proc/sys/{debian}")).as_deref() == Some("0") {
            findings.add(
                Level::Fail,
                "namespaces: ordinary users may make none; sysctl -w \
                 kernel.unprivileged_userns_clone=1",
            );
        }
        let apparmor = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
        if switch(apparmor).as_deref() == Some("1") {
            findings.add(
                Level::Warn,
                "namespaces: AppArmor lets only programs with a profile for it use them; give the \
                 runner one (userns,), or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
            );
        }
    }
    if findings.0.len() == before {
        findings.add(Level::Ok, "namespaces: users may make user and network namespaces");
    }
}

/// The host's network, as far as it can be looked at beforehand.
fn host(findings: &mut Findings, privilege: &Privilege, grant: &Grant) {
    let Some(mut host) =
        findings.note("netlink", Host::open(privilege), |_| "it answers".to_owned())
    else {
        return;
    };
    let found =
        findings.note("bridge", bridge::find(&mut host, grant), |found| match found.index() {
            None => format!("{} is not there yet; the first attach makes it", grant.bridge),
            Some(_) if found.is_ready() => {
                format!("{} is up, with {}", grant.bridge, grant.address)
            }
            Some(_) => format!("{} is half made; the next attach completes it", grant.bridge),
        });
    if !grant.nat {
        findings.add(Level::Warn, "way out: nat = false in the policy, so containers have none");
    }
    findings.note("firewall", firewall::describe(&mut host, grant), |state| (*state).to_owned());
    if !grant.nat {
        return;
    }
    let index = found.and_then(|found| found.index());
    match others::way_out(&mut host, grant, index) {
        Ok(Some(blocked)) => findings.add(Level::Warn, format!("other firewalls: {blocked}")),
        Ok(None) => {
            findings.add(Level::Ok, "other firewalls: none visibly drops what is forwarded")
        }
        Err(error) => findings.add(Level::Fail, format!("other firewalls: {error}")),
    }
}

fn name_service(findings: &mut Findings, grant: &Grant) {
    let about = "name service";
    match Dns::of(grant) {
        Ok(dns) if dns.nameservers.is_empty() => {
            findings.add(Level::Warn, format!("{about}: {}", Error::from(Failed::NoNameServer)));
        }
        other => drop(findings.note(about, other, |dns| {
            let servers: Vec<_> = dns.nameservers.iter().map(ToString::to_string).collect();
            format!("containers are told of {}", servers.join(" "))
        })),
    }
}
