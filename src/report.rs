//! What a run says: nothing, a text, or a CNI result; and of an error, one line.

use std::fmt::Display;
use std::io;
use std::net::Ipv4Addr;

use nix::errno::Errno;
use nix::unistd::write;
use serde::Serialize;

use crate::address::{Cidr, IfName, Mac};
use crate::dns::Dns;
use crate::error::{Error, Failed, Result};
use crate::ports::Mapping;

/// The result of an attach, as the CNI specification 1.0.0 has it ("Success Types", "Add").
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CniResult {
    cni_version: &'static str,
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
    routes: Vec<Route>,
    dns: Dns,
    /// Beyond the specification: what has been published, as its conventions write that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    port_mappings: Vec<Mapping>,
}

#[derive(Debug, Serialize)]
struct Interface {
    name: String,
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<String>,
}

#[derive(Debug, Serialize)]
struct Ip {
    address: String,
    gateway: Ipv4Addr,
    /// The interface that has it, by its place in the list.
    interface: usize,
}

#[derive(Debug, Serialize)]
struct Route {
    dst: &'static str,
    gw: Ipv4Addr,
}

impl CniResult {
    /// The result of having attached the namespace at `sandbox`. The bridge comes with its name and
    /// Ethernet address; the host's end and the container's, with the one address between them, by
    /// their names.
    #[allow(clippy::too_many_arguments, reason = "the parts of a result, each named once")]
    pub fn new(
        bridge: (&IfName, Mac),
        gateway: Ipv4Addr,
        host_end: &str,
        container_end: &IfName,
        address: Cidr,
        sandbox: &str,
        dns: Dns,
        port_mappings: &[Mapping],
    ) -> CniResult {
        let interface = |name: &str, mac: Mac, sandbox: Option<&str>| Interface {
            name: name.to_owned(),
            mac: mac.to_string(),
            sandbox: sandbox.map(str::to_owned),
        };
        CniResult {
            cni_version: "1.0.0",
            interfaces: vec![
                interface(bridge.0.as_str(), bridge.1, None),
                interface(host_end, Mac::of_host_end(address.ip), None),
                interface(container_end.as_str(), Mac::of(address.ip), Some(sandbox)),
            ],
            ips: vec![Ip { address: address.to_string(), gateway, interface: 2 }],
            routes: vec![Route { dst: "0.0.0.0/0", gw: gateway }],
            dns,
            port_mappings: port_mappings.to_vec(),
        }
    }
}

/// Prints `what` as one line of JSON.
///
/// # Errors
/// [`Failed::Output`].
pub fn print_json(what: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(what).map_err(|_| Failed::Output(Errno::EINVAL))?;
    print(&(text + "\n"))
}

/// A text of somebody else's as one word that can be shown anywhere.
pub fn one_word(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// Prints `text` on standard output, in one write.
///
/// # Errors
/// [`Failed::Output`], also when only a part of it could be written.
pub fn print(text: &str) -> Result<()> {
    match write(io::stdout(), text.as_bytes()) {
        Ok(length) if length == text.len() => Ok(()),
        Ok(_) => Err(Failed::Output(Errno::ENOSPC).into()),
        Err(errno) => Err(Failed::Output(errno).into()),
    }
}

/// Warns on standard error, in one line and one write, of what came with a success.
///
/// # Errors
/// The one that came instead.
pub fn warned<T: Display>(outcome: Result<Option<T>>) -> Result<()> {
    if let Some(what) = outcome? {
        say(&format!("warning: {what}"));
    }
    Ok(())
}

/// Says on standard error why the run failed, in one line and one write, and gives the exit status.
pub fn failure(error: &Error) -> i32 {
    say(&error.to_string());
    error.exit_status()
}

fn say(text: &str) {
    // Where even this cannot be written, the exit status still says it.
    let _ = write(io::stderr(), line(text).as_bytes());
}

/// What is said, as one line.
pub fn line(text: &str) -> String {
    // What would be escaped does something else to a terminal than to be shown: it ends the line, moves
    // the cursor, or turns the direction of writing round.
    let shown = |c: char| matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1;
    let text: String = text.chars().map(|c| if shown(c) { c } else { ' ' }).collect();
    format!("netsetgo: {text}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_one_line_that_only_shows() {
        assert_eq!(line("a \"b\" 'c' \\ \u{e4}"), "netsetgo: a \"b\" 'c' \\ \u{e4}\n");
        assert_eq!(line("a\nb\u{1b}[1m\u{202e}c\u{2028}d"), "netsetgo: a b [1m c d\n");
    }
}
