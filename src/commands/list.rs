//! Who has which address: read from the kernel's links, which are the leases. Only published ports take a
//! capability, as the kernel shows them to CAP_NET_ADMIN alone.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;

use serde::Serialize;

use crate::kernel::link::{self, Kind, Link, Namespace};
use crate::kernel::netlink::Netlink;
use crate::network::lease::{address_of, is_of_a_lease, user_of};
use crate::network::{Host, bridge};
use crate::privilege::caller::Caller;
use crate::privilege::capability;
use crate::publish;
use crate::report::error::{Failed, Result};
use crate::report::{self, one_word};
use crate::request::accounts;
use crate::request::address::Cidr;
use crate::request::policy::Grant;
use crate::request::ports::Mapping;

/// A lease, and what is known of its container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    address: String,
    user: String,
    host_interface: String,
    /// Its name inside, which only its owner can see.
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    /// The name that a runtime gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    /// A process in it, if the caller can see one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    port_mappings: Vec<Mapping>,
    /// Its bridge was deleted, or it was taken out there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_bridge: bool,
}

#[derive(Debug, Serialize)]
struct Quota {
    links: u32,
    used: usize,
}

#[derive(Debug, Serialize)]
struct List {
    leases: Vec<Row>,
    /// Left out if the policy allows the caller nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<Quota>,
}

/// Prints every lease, as a table or as JSON.
pub fn list(caller: &Caller, json: bool) -> Result<()> {
    let published = published(caller)?;
    capability::give_up_all()?;
    let mut netlink = Netlink::open().map_err(Failed::netlink("opening a netlink socket"))?;
    let grant = Grant::of(caller).ok();
    let links = leases(&mut netlink, grant.as_ref().map(|grant| grant.address))?;
    let used = links.iter().filter(|(_, link)| user_of(&link.name) == Some(caller.uid)).count();
    // Without names each user is told by number.
    let users = accounts::text_of(accounts::PASSWD).unwrap_or_default();
    let processes = if links.is_empty() { BTreeMap::new() } else { processes(&mut netlink) };
    let row = |(address, link): (Cidr, Link)| {
        let is_its_own = |(ip, owner, _): &&_| *ip == address.ip && *owner == link.name;
        Row {
            address: address.to_string(),
            user: match user_of(&link.name) {
                Some(uid) => accounts::name_of(uid, &users).map_or(uid.to_string(), one_word),
                // Only root can give a link another name.
                None => "root".to_owned(),
            },
            interface: link::name_inside(&mut netlink, &link).as_deref().map(one_word),
            container: link.alias.as_deref().map(one_word),
            pid: link.peer_namespace.and_then(|id| processes.get(&id).copied()),
            port_mappings: published.iter().filter(is_its_own).map(|(_, _, port)| *port).collect(),
            no_bridge: link.master.is_none(),
            host_interface: one_word(&link.name),
        }
    };
    let quota = grant.map(|grant| Quota { links: grant.links, used });
    let list = List { leases: links.into_iter().map(row).collect(), quota };
    if json { report::print_json(&list) } else { report::print(&as_table(&list)) }
}

/// The published ports, if the program was installed so that it may see them. They are sorted, as the
/// kernel's order differs each time.
fn published(caller: &Caller) -> Result<Vec<(Ipv4Addr, String, Mapping)>> {
    let Ok(privilege) = caller.privilege() else { return Ok(Vec::new()) };
    let mut all = publish::all(&mut Host::open(&privilege)?)?;
    all.sort_by_key(|(_, _, port)| (port.host_ip, port.host_port, port.protocol.number()));
    Ok(all)
}

/// The links that are leases, in the order of their addresses. The subnet is that of the link's bridge, or
/// `home` if the bridge is gone.
fn leases(netlink: &mut Netlink, home: Option<Cidr>) -> Result<Vec<(Cidr, Link)>> {
    let links = link::all(netlink, Kind::Veth).map_err(Failed::netlink("reading the links"))?;
    let mut subnets = BTreeMap::from([(None, Vec::from_iter(home))]);
    let mut leases = Vec::new();
    for link in links {
        let subnets = match (subnets.entry(link.master), link.master) {
            (_, None) if !is_of_a_lease(&link) || link.peer_namespace.is_none() => continue,
            (Entry::Vacant(new), Some(bridge)) => new.insert(bridge::addresses(netlink, bridge)?),
            (known, _) => known.or_default(),
        };
        if let Some(address) = subnets.iter().find_map(|subnet| address_of(link.index, *subnet)) {
            leases.push((address, link));
        }
    }
    leases.sort_by_key(|(address, _)| address.ip);
    Ok(leases)
}

/// The first process of each network namespace that the caller can see. The key is the id by which this
/// namespace knows the other.
pub fn processes(netlink: &mut Netlink) -> BTreeMap<i32, u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let pids: BTreeSet<u32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    let mut first = BTreeMap::new();
    for pid in pids {
        if let Ok(Some(id)) = link::namespace_id(netlink, Namespace::Pid(pid)) {
            first.entry(id).or_insert(pid);
        }
    }
    first
}

fn as_table(list: &List) -> String {
    let head = ["ADDRESS", "USER", "HOST INTERFACE", "INTERFACE", "CONTAINER", "PORTS"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(list.leases.iter().map(|lease| {
        let process = lease.pid.map(|pid| format!("pid {pid}"));
        let ports: Vec<_> = lease.port_mappings.iter().map(ToString::to_string).collect();
        [
            lease.address.clone(),
            lease.user.clone(),
            lease.host_interface.clone(),
            lease.interface.clone().unwrap_or_default(),
            lease.container.clone().or(process).unwrap_or_default(),
            ports.join(" "),
        ]
        .map(|cell| if cell.is_empty() { "-".to_owned() } else { cell })
    }));
    let mut widths = [0; 6];
    for row in &rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = cell.len().max(*width));
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    for lease in list.leases.iter().filter(|lease| lease.no_bridge) {
        let name = &lease.host_interface;
        text += &format!(
            "{name} is at no bridge: delete it (netsetgo -delete) and attach the container anew\n"
        );
    }
    if let Some(Quota { links, used }) = list.quota {
        text += &format!("{used} of your {links} links used\n");
    }
    text
}
