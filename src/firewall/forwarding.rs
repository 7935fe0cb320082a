//! Forwarding: the kernel's switches that let the host route for containers (`ip-sysctl` in the
//! kernel's documentation).

use std::fs;

use crate::network::Host;
use crate::report::error::{Failed, Result};
use crate::request::address::IfName;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Whether the host routes IPv4.
///
/// The switch takes any number, and any but 0 means "on". This program writes 2, so that it can tell
/// later, and so can anybody, that the host was no router before: then it is to be none for others
/// than containers. Whoever wants a router writes 1, as is usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forwarding {
    /// Not yet.
    Off,
    /// This program switched it on.
    Ours,
    /// Somebody else did.
    Others,
}

impl Forwarding {
    /// Reads it.
    ///
    /// # Errors
    /// [`Failed::File`].
    pub fn read() -> Result<Forwarding> {
        let text = fs::read_to_string(IP_FORWARD)
            .map_err(|error| Failed::File(IP_FORWARD.into(), error))?;
        Ok(match text.trim() {
            "0" => Forwarding::Off,
            "2" => Forwarding::Ours,
            _ => Forwarding::Others,
        })
    }

    /// Whether the host has to be kept from routing for others, as it did not before.
    pub fn for_containers_only(self) -> bool {
        self != Forwarding::Others
    }

    /// Switches it on.
    ///
    /// # Errors
    /// [`Failed::Sysctl`].
    pub fn switch_on(self, host: &Host) -> Result<()> {
        if self == Forwarding::Off { write(host, IP_FORWARD, "2") } else { Ok(()) }
    }
}

/// Lets packets from 127.0.0.1 out of `bridge`, and the answers in: for ports that are published
/// there. The firewall keeps everything else with such an address away (CVE-2020-8558).
///
/// # Errors
/// [`Failed::Sysctl`].
pub fn route_localnet(host: &Host, bridge: &IfName) -> Result<()> {
    write(host, &format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"), "1")
}

fn write(host: &Host, path: &str, value: &str) -> Result<()> {
    let failed = |error| Failed::Sysctl(path.into(), value.to_owned(), error);
    Ok(host.set_switch(path, value)?.map_err(failed)?)
}
