//! The result of an attach, in the form of the CNI specification 1.0.0 ("Success Types", "Add").

use std::net::Ipv4Addr;

use serde::Serialize;

use crate::kernel::link::Link;
use crate::network::lease::{Lease, Wanted};
use crate::report::dns::Dns;
use crate::request::address::Mac;
use crate::request::ports::Mapping;

/// The result of an attach.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CniResult {
    cni_version: &'static str,
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
    routes: Vec<Route>,
    dns: Dns,
    /// The published ports. The form is that of CNI's conventions; the specification has no such
    /// field.
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
    /// The place of its interface in the list.
    interface: usize,
}

#[derive(Debug, Serialize)]
struct Route {
    dst: &'static str,
    gw: Ipv4Addr,
}

impl CniResult {
    /// The result for this lease. The Ethernet addresses of both ends follow from the address.
    pub fn new(
        bridge: &Link,
        lease: &Lease,
        wanted: &Wanted,
        dns: Dns,
        port_mappings: Vec<Mapping>,
    ) -> CniResult {
        let interface = |name: &str, mac: Mac, sandbox: Option<&str>| Interface {
            name: name.to_owned(),
            mac: mac.to_string(),
            sandbox: sandbox.map(str::to_owned),
        };
        let (address, gateway) = (lease.address, wanted.grant.address.ip);
        let (host_end, container_end) = (lease.host_end.as_str(), wanted.container_end.as_str());
        let bridge_mac = bridge.mac.unwrap_or(Mac::of(gateway));
        CniResult {
            cni_version: "1.0.0",
            interfaces: vec![
                interface(wanted.grant.bridge.as_str(), bridge_mac, None),
                interface(host_end, Mac::of_host_end(address.ip), None),
                interface(container_end, Mac::of(address.ip), Some(&wanted.target.sandbox)),
            ],
            ips: vec![Ip { address: address.to_string(), gateway, interface: 2 }],
            routes: vec![Route { dst: "0.0.0.0/0", gw: gateway }],
            dns,
            port_mappings,
        }
    }
}
