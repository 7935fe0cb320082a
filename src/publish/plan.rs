//! What there is to do for ports to be published: which are granted, which are free, and which are there
//! already.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::Ipv4Addr;

use super::PORTS;
use super::encode;
use crate::firewall::dnat;
use crate::kernel::link::By;
use crate::kernel::nftables::Element;
use crate::kernel::sock_diag::Places;
use crate::network::Host;
use crate::network::lease::index_of;
use crate::network::pool::lowest_free;
use crate::report::error::{Failed, Refused, Result};
use crate::request::address::Cidr;
use crate::request::policy::Grant;
use crate::request::ports::{DYNAMIC_PORTS, Mapping, Protocol};

/// What is to be done for mappings to be published.
#[derive(Debug, Default)]
pub struct Plan {
    /// The mappings, with ports chosen for 0.
    pub all: Vec<Mapping>,
    /// Those that are not there yet.
    pub added: Vec<Mapping>,
    /// Ports of containers that are gone stand in the way.
    pub stale: bool,
}

/// What stands where a mapping is to be published.
#[derive(Debug)]
pub enum There {
    Nothing,
    /// That very mapping.
    Itself,
    /// A port of a container that is gone.
    Stale,
    Taken(Failed),
}

/// Where ports are looked up: in the kernel, or in a test.
pub trait Lookup {
    /// What stands where `mapping` is to be published.
    fn there(&mut self, mapping: &Mapping) -> Result<There>;

    /// The host ports that lead to where `mapping` is to lead already.
    fn given(&mut self, mapping: &Mapping) -> Result<Vec<u16>>;
}

/// Checks that the policy grants these host ports.
pub fn check_granted(grant: &Grant, mappings: &[Mapping]) -> Result<()> {
    if !grant.nat {
        return Err(Refused::NoNat.into());
    }
    let Some(granted) = &grant.publish else { return Ok(()) };
    if granted.is_empty() {
        return Err(Refused::NoPorts(grant.uid).into());
    }
    let is_granted = |port| port == 0 || granted.iter().any(|ports| ports.0.contains(&port));
    match mappings.iter().find(|mapping| !is_granted(mapping.host_port)) {
        Some(mapping) => Err(Refused::Port(*mapping, grant.uid).into()),
        None => Ok(()),
    }
}

/// Looks up what is published already, and chooses free host ports for 0.
pub fn plan(ports: &mut impl Lookup, grant: &Grant, mappings: &[Mapping]) -> Result<Plan> {
    let mut plan = Plan::default();
    for asked in mappings {
        let (mapping, there) = match asked.host_port {
            0 => choose(ports, grant, &[&plan.all, mappings].concat(), asked)?,
            _ => (*asked, ports.there(asked)?),
        };
        match there {
            There::Taken(why) => return Err(why.into()),
            There::Itself => {}
            there => {
                plan.stale |= matches!(there, There::Stale);
                plan.added.push(mapping);
            }
        }
        plan.all.push(mapping);
    }
    Ok(plan)
}

/// A mapping with a host port in place of 0, and what stands there: the port that leads there already, or
/// the lowest free one, as far as a few looks tell. None of `others` may have it.
fn choose(
    ports: &mut impl Lookup,
    grant: &Grant,
    others: &[Mapping],
    asked: &Mapping,
) -> Result<(Mapping, There)> {
    let with = |host_port| Mapping { host_port, ..*asked };
    let granted = grant.publish.as_deref().unwrap_or(&[DYNAMIC_PORTS]);
    let open: Vec<u16> = granted
        .iter()
        .flat_map(|ports| ports.0.clone())
        .filter(|port| !others.iter().any(|other| other.conflicts(&with(*port))))
        .collect();
    if let Some(port) = ports.given(asked)?.into_iter().find(|port| open.contains(port)) {
        return Ok((with(port), ports.there(&with(port))?));
    }
    let count = u32::try_from(open.len()).unwrap_or(u32::MAX);
    let free = lowest_free(count, |place| {
        let mapping = with(open.get(place as usize).copied().unwrap_or_default());
        let there = ports.there(&mapping)?;
        Ok(matches!(there, There::Nothing | There::Stale).then_some((mapping, there)))
    })?;
    Ok(free.ok_or(Failed::NoFreePort(*asked))?)
}

/// The ports of the host, looked up in the kernel one by one.
pub struct Ports<'a, 'h> {
    host: &'a mut Host<'h>,
    /// The container's address, if it has one.
    own: Option<Ipv4Addr>,
    /// Where programs wait, by protocol, read when it is needed first.
    listeners: HashMap<Protocol, Places>,
    /// The host's addresses, read when they are needed first.
    local: Option<Vec<Cidr>>,
}

impl<'a, 'h> Ports<'a, 'h> {
    pub fn of(host: &'a mut Host<'h>, own: Option<Ipv4Addr>) -> Self {
        Ports { host, own, listeners: HashMap::new(), local: None }
    }

    /// The addresses on which a port cannot be published beside `mapping`; `None` is every address. Of
    /// 127.0.0.0/8 it is 127.0.0.1 alone: the network is too large to ask for each.
    fn conflicting(&mut self, mapping: &Mapping) -> Result<Vec<Option<Ipv4Addr>>> {
        if mapping.host_ip.is_some() {
            return Ok(vec![mapping.host_ip, None]);
        }
        let local = match &mut self.local {
            Some(local) => local,
            none => none.insert(self.host.local_addresses()?),
        };
        let single = local.iter().filter(|range| range.prefix == 32).map(|range| range.ip);
        Ok([None].into_iter().chain(single.chain([Ipv4Addr::LOCALHOST]).map(Some)).collect())
    }

    /// The address of the container that an element leads to, if it is still the one that published it.
    fn holder(&mut self, element: &Element) -> Result<Option<Ipv4Addr>> {
        let Some(ip) = encode::leads_to(element) else { return Ok(None) };
        let link = self.host.link(By::Index(index_of(ip)))?;
        Ok(link.filter(|link| link.name == element.comment).map(|_| ip))
    }
}

impl Lookup for Ports<'_, '_> {
    fn there(&mut self, mapping: &Mapping) -> Result<There> {
        let failed = Failed::netlink("looking for programs that wait at a port");
        let listeners = match self.listeners.entry(mapping.protocol) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Places::listening(mapping.protocol).map_err(failed)?),
        };
        if listeners.hold(mapping) {
            return Ok(There::Taken(Failed::PortInUse(*mapping)));
        }
        let places = self.conflicting(mapping)?;
        let addresses: Vec<_> = places.iter().flatten().copied().collect();
        let found = self.host.ruleset("reading it", |ruleset| {
            let key = |host_ip| encode::key(&Mapping { host_ip, ..*mapping });
            let mut look = |host_ip| ruleset.element(&PORTS, key(host_ip)).transpose();
            places.into_iter().filter_map(&mut look).collect::<Result<Vec<_>, _>>()
        })?;
        let mut there = There::Nothing;
        for element in found {
            let own = self.own.map(|ip| encode::value(ip, mapping));
            if element.key == encode::key(mapping) && Some(&element.value) == own.as_ref() {
                return Ok(There::Itself);
            }
            match self.holder(&element)? {
                Some(ip) => return Ok(There::Taken(Failed::PortPublished(*mapping, ip))),
                None => there = There::Stale,
            }
        }
        Ok(match dnat::taker(self.host, mapping, &addresses)? {
            Some(rule) => There::Taken(Failed::PortTranslated(*mapping, rule)),
            None => there,
        })
    }

    fn given(&mut self, mapping: &Mapping) -> Result<Vec<u16>> {
        let Some(own) = self.own else { return Ok(Vec::new()) };
        if !super::is_published(self.host, own)? {
            return Ok(Vec::new());
        }
        let alike = |(ip, _, port): &(Ipv4Addr, String, Mapping)| {
            *ip == own && Mapping { host_port: 0, ..*port } == Mapping { host_port: 0, ..*mapping }
        };
        let all = super::all(self.host)?.into_iter();
        Ok(all.filter(alike).map(|(.., port)| port.host_port).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::ports::Publication;

    /// A host on which these ports are published already, and lead to the container or to another one.
    struct Fake(Vec<(u16, bool)>);

    impl Lookup for Fake {
        fn there(&mut self, mapping: &Mapping) -> Result<There> {
            let found = self.0.iter().find(|(port, _)| *port == mapping.host_port);
            Ok(match found {
                None => There::Nothing,
                Some((_, true)) => There::Itself,
                Some((_, false)) => There::Taken(Failed::PortInUse(*mapping)),
            })
        }

        fn given(&mut self, _: &Mapping) -> Result<Vec<u16>> {
            Ok(self.0.iter().filter(|(_, own)| *own).map(|(port, _)| *port).collect())
        }
    }

    fn planned(there: &[(u16, bool)], asked: &[&str]) -> Result<Vec<(u16, bool)>> {
        let grant = Grant { publish: Some(vec!["8000-8003".parse().unwrap()]), ..Grant::default() };
        let mappings = asked.iter().map(|text| text.parse::<Publication>().unwrap().0[0]);
        let mappings: Vec<_> = mappings.collect();
        let plan = plan(&mut Fake(there.to_vec()), &grant, &mappings)?;
        Ok(plan.all.iter().map(|port| (port.host_port, plan.added.contains(port))).collect())
    }

    #[test]
    fn a_port_is_added_unless_it_is_there() {
        assert_eq!(planned(&[], &["8000:80"]).unwrap(), [(8000, true)]);
        assert_eq!(planned(&[(8000, true)], &["8000:80"]).unwrap(), [(8000, false)]);
        assert!(planned(&[(8000, false)], &["8000:80"]).is_err());
    }

    #[test]
    fn for_0_it_is_the_port_that_leads_there_or_the_lowest_free_one() {
        assert_eq!(planned(&[(8001, true)], &["0:80"]).unwrap(), [(8001, false)]);
        let both = planned(&[(8000, false)], &["0:80", "0:81", "8001:82"]).unwrap();
        assert_eq!(both, [(8002, true), (8003, true), (8001, true)]);
        let full: Vec<_> = (8000..=8003).map(|port| (port, false)).collect();
        assert!(planned(&full, &["0:80"]).is_err());
    }
}
