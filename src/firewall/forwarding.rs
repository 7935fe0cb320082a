//! Forwarding: the kernel's switches that make the host route for containers (`ip-sysctl` in the kernel's
//! documentation).

use std::fs;

use crate::network::Host;
use crate::report::error::{Failed, Result};
use crate::request::address::IfName;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Whether the host routes IPv4.
///
/// The switch takes any number, and each but 0 means "on". This program writes 2. So it can tell later,
/// and so can the admin, that the host was no router before, and that it has to stay none for others than
/// containers. An admin who wants a router writes 1, as is usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    Off,
    /// This program switched it on.
    Ours,
    /// The admin, or another program, did.
    Others,
}

impl Forwarding {
    pub fn read() -> Result<Forwarding> {
        let text = fs::read_to_string(IP_FORWARD)
            .map_err(|error| Failed::File(IP_FORWARD.into(), error))?;
        Ok(match text.trim() {
            "0" => Forwarding::Off,
            "2" => Forwarding::Ours,
            _ => Forwarding::Others,
        })
    }
}

/// Switches forwarding on where it is off.
pub fn switch_on(host: &Host) -> Result<()> {
    replace(host, Forwarding::Off, "2")
}

/// Writes the admin's 1 again, over which a run has written.
pub fn restore(host: &Host) -> Result<()> {
    replace(host, Forwarding::Ours, "1")
}

/// Writes the switch, if it is at `from`. It is read right before, so that a value that the admin has
/// written meanwhile stays.
fn replace(host: &Host, from: Forwarding, to: &str) -> Result<()> {
    if Forwarding::read()? == from { host.set_switch(IP_FORWARD, to) } else { Ok(()) }
}

/// Lets packets from 127.0.0.1 out of `bridge`, and the answers in: for ports that are published there.
/// The firewall drops everything else with such an address (CVE-2020-8558).
pub fn route_localnet(host: &Host, bridge: &IfName) -> Result<()> {
    host.set_switch(&format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"), "1")
}
