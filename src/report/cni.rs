//! The result of an attach, in the form of the CNI specification 1.0.0 ("Success Types", "Add").

use serde::Serialize;
use serde_json::{Value, json};

use crate::kernel::link::Link;
use crate::network::lease::{Lease, Wanted};
use crate::report::dns::Dns;
use crate::request::address::Mac;
use crate::request::ports::Mapping;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CniResult<'a> {
    cni_version: &'static str,
    interfaces: [Interface<'a>; 3],
    ips: [Value; 1],
    routes: [Value; 1],
    dns: Dns,
    /// The form is that of CNI's conventions; the specification has no such field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    port_mappings: Vec<Mapping>,
}

#[derive(Debug, Serialize)]
struct Interface<'a> {
    name: &'a str,
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a str>,
}

impl CniResult<'_> {
    /// The result for this lease. The Ethernet addresses of both ends follow from the address.
    pub fn new<'a>(
        bridge: &Link,
        lease: &'a Lease,
        wanted: &'a Wanted,
        dns: Dns,
        port_mappings: Vec<Mapping>,
    ) -> CniResult<'a> {
        let (address, gateway) = (lease.address, wanted.grant.address.ip);
        let interface = |name, mac: Mac, sandbox| Interface { name, mac: mac.to_string(), sandbox };
        let bridge_mac = bridge.mac.unwrap_or(Mac::of(gateway));
        let (end, sandbox) =
            (wanted.request.container_end.as_str(), wanted.target.sandbox.as_str());
        CniResult {
            cni_version: "1.0.0",
            interfaces: [
                interface(wanted.grant.bridge.as_str(), bridge_mac, None),
                interface(lease.host_end.as_str(), Mac::of_host_end(address.ip), None),
                interface(end, Mac::of(address.ip), Some(sandbox)),
            ],
            // `interface` is the place in the list of interfaces.
            ips: [json!({ "address": address.to_string(), "gateway": gateway, "interface": 2 })],
            routes: [json!({ "dst": "0.0.0.0/0", "gw": gateway })],
            dns,
            port_mappings,
        }
    }
}
