//! The result of an attach, in the form of the CNI specification 1.0.0 ("Success Types", "Add").

use std::net::Ipv4Addr;

use serde::Serialize;

use crate::report::dns::Dns;
use crate::request::address::{Cidr, IfName, Mac};
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
    /// The result for the namespace at the path `sandbox`. `address` is the container's; the
    /// Ethernet addresses of both ends of the veth pair follow from it.
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
