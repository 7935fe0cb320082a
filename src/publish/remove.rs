//! Removing published ports: those of containers that are gone, or all that lead to an address.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use super::encode::{leads_to, live};
use super::{is_published, publishing};
use crate::firewall::{self, LIVE, PORTS, PUBLISHING, Step, optimistic};
use crate::kernel::link::By;
use crate::kernel::nftables::{Batch, Element};
use crate::network::Host;
use crate::network::lease::index_of;
use crate::network::owner::forget_neighbour;
use crate::report::error::Result;

/// Which of the ports that lead to an address are removed.
enum Scope {
    Everything,
    /// All but those that were published for the container with this host end.
    AllBut(String),
}

/// Removes what leads to this address, if `may` says that it is right. Gives whether something did.
pub fn all_of(
    host: &mut Host,
    ip: Ipv4Addr,
    may: impl Fn(&mut Host) -> Result<bool>,
) -> Result<bool> {
    let published = is_published(host, ip)?;
    if published {
        remove(host, |host, other| Ok((other == ip && may(host)?).then_some(Scope::Everything)))?;
    }
    Ok(published)
}

/// Removes what leads to containers that are gone.
pub fn prune(host: &mut Host) -> Result<()> {
    remove(host, |host, ip| {
        let link = host.link(By::Index(index_of(ip)))?;
        Ok(Some(link.map_or(Scope::Everything, |link| Scope::AllBut(link.name))))
    })
}

/// Removes what leads to publishing containers, as far as `scope` says of each address, and what waits
/// for them. `None`: nothing of that address is removed.
fn remove(
    host: &mut Host,
    scope: impl Fn(&mut Host, Ipv4Addr) -> Result<Option<Scope>>,
) -> Result<()> {
    let removed = optimistic(host, |host| {
        let mut scopes = HashMap::new();
        for ip in host.elements(&PUBLISHING)?.iter().filter_map(Element::ipv4) {
            if let Some(scope) = scope(host, ip)? {
                scopes.insert(ip, scope);
            }
        }
        if scopes.is_empty() {
            return Ok(Step::Done(Vec::new()));
        }
        let (ports, live) = (host.elements(&PORTS)?, host.elements(&LIVE)?);
        let (batch, gone) = removal(&scopes, ports, live);
        Ok(Step::Commit(batch, gone))
    })?;
    if removed.is_empty() {
        return Ok(());
    }
    for bridge in firewall::bridges(host)? {
        for ip in &removed {
            forget_neighbour(host, bridge.index, *ip)?;
        }
    }
    Ok(())
}

/// The transaction that removes ports, and the addresses to which nothing leads after it.
fn removal(
    scopes: &HashMap<Ipv4Addr, Scope>,
    ports: Vec<Element>,
    lives: Vec<Element>,
) -> (Batch, Vec<Ipv4Addr>) {
    let scope = |element: &Element| leads_to(element).and_then(|ip| scopes.get(&ip));
    let stays = |port: &Element| match scope(port) {
        Some(Scope::Everything) => false,
        Some(Scope::AllBut(host_end)) => port.comment == *host_end,
        None => true,
    };
    let (staying, ports): (Vec<_>, Vec<_>) = ports.into_iter().partition(stays);
    let kept: HashSet<_> = staying.iter().map(|port| live(port).key).collect();
    let busy: HashSet<_> = staying.iter().filter_map(leads_to).collect();
    let goes = |live: &Element| scope(live).is_some() && !kept.contains(&live.key);
    let gone: Vec<_> = scopes.keys().filter(|ip| !busy.contains(*ip)).copied().collect();
    let mut batch = Batch::default();
    batch.delete(&PORTS, &ports);
    batch.delete(&LIVE, &lives.into_iter().filter(goes).collect::<Vec<_>>());
    batch.delete(&PUBLISHING, &gone.iter().copied().map(publishing).collect::<Vec<_>>());
    (batch, gone)
}

#[cfg(test)]
mod tests {
    use super::super::encode::element;
    use super::*;
    use crate::request::ports::Publication;

    /// A port that leads to an address, and was published for the container with this host end.
    fn port(text: &str, last: u8, host_end: &str) -> Element {
        let Publication(mappings) = text.parse().unwrap();
        element(Ipv4Addr::new(10, 10, 10, last), &mappings[0], &host_end.parse().unwrap())
    }

    #[test]
    fn what_is_removed_is_what_leads_there_and_nothing_else() {
        let ports = vec![
            port("8080:80", 2, "ns1000-0"),
            port("127.0.0.1:8081:80", 2, "ns1000-0"),
            port("8082:80", 3, "ns1000-1"),
            port("8083:80", 3, "ns1001-0"),
            port("8084:80", 4, "ns1002-0"),
        ];
        let lives: Vec<_> = ports.iter().map(live).collect();
        let ip = |last| Ipv4Addr::new(10, 10, 10, last);
        let scopes = HashMap::from([
            (ip(2), Scope::Everything),
            (ip(3), Scope::AllBut("ns1001-0".to_owned())),
        ]);
        let (batch, gone) = removal(&scopes, ports, lives);
        assert_eq!(gone, [ip(2)], "another container publishes at the second address");
        let shown = format!("{batch:?}");
        let has = |port: u16| {
            let [high, low] = port.to_be_bytes();
            shown.contains(&format!("{high}, {low}, 0, 0"))
        };
        assert_eq!([8080, 8081, 8082, 8083, 8084].map(has), [true, true, true, false, false]);
    }
}
