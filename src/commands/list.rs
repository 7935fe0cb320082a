//! Who has which address: read from the kernel's links, which are the leases. That takes no right at
//! all, but for published ports, which the kernel shows to CAP_NET_ADMIN only.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::net::Ipv4Addr;

use serde::Serialize;

use crate::kernel::link::{self, Kind, Link, Namespace};
use crate::kernel::netlink::Netlink;
use crate::network::lease::{address_of, is_of_a_lease, owner_of};
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

/// A lease, and what there is to know of its container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    address: String,
    user: String,
    host_interface: String,
    /// Its name inside, which only its owner can see.
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    /// What a runtime called it.
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    /// A process in it, as far as the caller can see them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    port_mappings: Vec<Mapping>,
    /// Somebody has deleted its bridge, or taken it out there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_bridge: bool,
}

/// How much of his quota the caller uses.
#[derive(Debug, Serialize)]
struct Quota {
    links: u32,
    used: usize,
}

#[derive(Debug, Serialize)]
struct List {
    leases: Vec<Row>,
    /// Not for whom the policy allows nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<Quota>,
}

/// Prints every lease, as a table or as JSON.
///
/// # Errors
/// [`Failed::Netlink`], [`Failed::Output`].
pub fn list(caller: &Caller, json: bool) -> Result<()> {
    let published = published(caller)?;
    capability::give_up_all()?;
    let mut netlink = Netlink::open().map_err(Failed::netlink("opening a netlink socket"))?;
    let grant = Grant::of(caller).ok();
    let links = leases(&mut netlink, grant.as_ref().map(|grant| grant.address))?;
    let used = links.iter().filter(|(_, link)| owner_of(&link.name) == Some(caller.uid)).count();
    let quota = grant.map(|grant| Quota { links: grant.links, used });
    let users = accounts::passwd().unwrap_or_default();
    let processes = if links.is_empty() { BTreeMap::new() } else { processes(&mut netlink) };

    let mut list = List { leases: Vec::new(), quota };
    for (address, link) in links {
        let of_this = |(ip, owner, _): &&(Ipv4Addr, String, Mapping)| {
            *ip == address.ip && *owner == link.name
        };
        list.leases.push(Row {
            address: address.to_string(),
            user: user(&link.name, &users),
            interface: link::name_inside(&mut netlink, &link).as_deref().map(one_word),
            container: link.alias.as_deref().map(one_word),
            pid: link.peer_namespace.and_then(|id| processes.get(&id).copied()),
            port_mappings: published.iter().filter(of_this).map(|(_, _, m)| *m).collect(),
            no_bridge: link.master.is_none(),
            host_interface: one_word(&link.name),
        });
    }
    if json { report::print_json(&list) } else { report::print(&as_table(&list)) }
}

/// The published ports, if the program was installed so that it may see them: by their numbers, as
/// the kernel's own order is another each time.
fn published(caller: &Caller) -> Result<Vec<(Ipv4Addr, String, Mapping)>> {
    let Ok(privilege) = caller.privilege() else { return Ok(Vec::new()) };
    let mut all = publish::all(&mut Host::open(&privilege)?)?;
    all.sort_by_key(|(_, _, port)| (port.host_ip, port.host_port, port.protocol.number()));
    Ok(all)
}

/// The links that are leases, in the order of their addresses: by the subnet of their bridge, or by
/// `home` where that has gone.
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

/// The owner of the link `name`, by his account's name if he has one.
fn user(name: &str, passwd: &str) -> String {
    match owner_of(name) {
        Some(uid) => accounts::name_of(uid, passwd).map_or(uid.to_string(), one_word),
        // Only root can give a link another name.
        None => "root".to_owned(),
    }
}

/// A process of each network namespace, by the id that this one knows it by: the first, of those that
/// the caller can see.
fn processes(netlink: &mut Netlink) -> BTreeMap<i32, u32> {
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
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
    for entry in &list.leases {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let process = entry.pid.map(|pid| format!("pid {pid}"));
        let ports: Vec<_> = entry.port_mappings.iter().map(ToString::to_string).collect();
        rows.push([
            entry.address.clone(),
            entry.user.clone(),
            entry.host_interface.clone(),
            or_dash(entry.interface.clone()),
            or_dash(entry.container.clone().or(process)),
            or_dash(Some(ports.join(" ")).filter(|ports| !ports.is_empty())),
        ]);
    }
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    for entry in list.leases.iter().filter(|entry| entry.no_bridge) {
        let name = &entry.host_interface;
        text += &format!("{name} is at no bridge: to attach its container again puts it back\n");
    }
    if let Some(Quota { links, used }) = list.quota {
        text += &format!("{used} of your {links} links used\n");
    }
    text
}
