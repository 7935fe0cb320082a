//! What is published already, and which ports are free.

use std::net::Ipv4Addr;

use super::encode::{address, is_port_of, key, live_of, value};
use super::removal::Placed;
use super::{all_of, element_of};
use crate::firewall::{LIVE, LIVE_AT, PORTS, PORTS_AT};
use crate::kernel::link::By;
use crate::kernel::nftables::Element;
use crate::kernel::sock_diag::Listeners;
use crate::network::Host;
use crate::network::lease::{TRIES, index_of};
use crate::network::pool::lowest_free;
use crate::report::error::{Failed, Result};
use crate::request::policy::Grant;
use crate::request::ports::{Granted, Mapping};

/// What is to be done for mappings to be published.
#[derive(Default)]
pub struct Resolved {
    /// The mappings, with ports chosen.
    pub all: Vec<Mapping>,
    /// Those that are not there yet.
    pub added: Vec<Mapping>,
    /// What is in their way, of containers that are gone.
    pub stale: Vec<Placed>,
    /// How many there are on one address each, of everybody's and of containers that are gone.
    pub at: usize,
}

/// What stands where a mapping is to be published.
enum There {
    /// Nothing, or only what leads to containers that are gone.
    Free(Vec<Placed>),
    /// That very mapping.
    Itself,
    /// Something else that is in use.
    Taken(Failed),
}

/// What a run looks at to find out what is there.
struct Looking<'a> {
    /// The container's address, if it has one.
    own: Option<Ipv4Addr>,
    listeners: Listeners,
    /// What is published on one address each. Mostly that is little or nothing.
    at: Vec<Element>,
    resolved: &'a mut Resolved,
}

/// Looks at what is published already, and chooses free ports. `own` is the container's address, if
/// it has one.
///
/// # Errors
/// [`Failed::PortInUse`], [`Failed::PortPublished`], [`Failed::NoFreePort`], [`Failed::Firewall`],
/// [`Failed::Netlink`].
pub fn resolve(
    host: &mut Host,
    grant: &Grant,
    mappings: &[Mapping],
    own: Option<Ipv4Addr>,
) -> Result<Resolved> {
    let at = all_of(host, &PORTS_AT)?;
    let mut resolved = Resolved { at: at.len(), ..Resolved::default() };
    let mut looking = Looking { own, listeners: Listeners::default(), at, resolved: &mut resolved };
    for asked in mappings {
        let (mapping, there) = match asked.host_port {
            0 => looking.choose(host, grant, mappings, asked)?,
            _ => (*asked, looking.look(host, asked)?),
        };
        match there {
            There::Taken(why) => return Err(why.into()),
            There::Itself => {}
            There::Free(stale) => {
                looking.resolved.stale.extend(stale);
                looking.resolved.added.push(mapping);
            }
        }
        looking.resolved.all.push(mapping);
    }
    Ok(resolved)
}

impl Looking<'_> {
    /// What is there where `mapping` is to be.
    fn look(&mut self, host: &mut Host, mapping: &Mapping) -> Result<There> {
        if self.listeners.hold(mapping)? {
            return Ok(There::Taken(Failed::PortInUse(*mapping)));
        }
        let anywhere = Mapping { host_ip: None, ..*mapping };
        let mut conflicts: Vec<_> = element_of(host, &PORTS, &key(&anywhere))?
            .map(|element| (&PORTS, element))
            .into_iter()
            .collect();
        conflicts.extend(self.at.iter().filter_map(|element| {
            let conflicting = match mapping.host_ip {
                Some(_) => element.key == key(mapping),
                None => is_port_of(&element.key, mapping),
            };
            conflicting.then(|| (&PORTS_AT, element.clone()))
        }));
        for (_, element) in conflicts.iter().filter(|(_, element)| !element.expires) {
            let leads_here =
                self.own.is_some_and(|ip| element.value == value(ip, mapping.container_port));
            if leads_here && element.key == key(mapping) {
                return Ok(There::Itself);
            }
            if let Some(ip) = holder(host, element)? {
                return Ok(There::Taken(Failed::PortPublished(*mapping, ip)));
            }
        }
        let stale = |(map, element): Placed| {
            let live = if map.name == PORTS.name { &LIVE } else { &LIVE_AT };
            let lives = Element { expires: element.expires, ..Element::key(live_of(&element)) };
            [(live, lives), (map, element)]
        };
        Ok(There::Free(conflicts.into_iter().flat_map(stale).collect()))
    }

    /// A host port for a mapping that leaves it open: the one that the container has been given for
    /// it before, or the lowest free one, as far as a few looks tell; and what is there. None of those
    /// that are named beside it.
    fn choose(
        &mut self,
        host: &mut Host,
        grant: &Grant,
        beside: &[Mapping],
        asked: &Mapping,
    ) -> Result<(Mapping, There)> {
        let with = |host_port| Mapping { host_port, ..*asked };
        let dynamic = [Granted::dynamic()];
        let granted = grant.publish.as_deref().unwrap_or(&dynamic);
        let open: Vec<u16> = granted
            .iter()
            .flat_map(Granted::each)
            .filter(|port| {
                let mut others = self.resolved.all.iter().chain(beside);
                !others.any(|other| other.conflicts(&with(*port)))
            })
            .collect();
        if let Some(port) = self.given(host, asked)?.into_iter().find(|port| open.contains(port)) {
            return Ok((with(port), self.look(host, &with(port))?));
        }
        let at = |position: u32| {
            usize::try_from(position).ok().and_then(|at| open.get(at)).copied().unwrap_or_default()
        };
        let count = u32::try_from(open.len()).unwrap_or(u32::MAX);
        for _ in 0..TRIES {
            let free = lowest_free(count, |position| {
                Ok(!matches!(self.look(host, &with(at(position)))?, There::Free(_)))
            })?;
            let mapping = match free {
                Some(position) => with(at(position)),
                None => return Err(Failed::NoFreePort(*asked).into()),
            };
            // Somebody may have been faster since.
            if let there @ There::Free(_) = self.look(host, &mapping)? {
                return Ok((mapping, there));
            }
        }
        Err(Failed::Contended.into())
    }

    /// The host ports that lead to where `asked` is to lead already.
    fn given(&mut self, host: &mut Host, asked: &Mapping) -> Result<Vec<u16>> {
        let Some(ip) = self.own else { return Ok(Vec::new()) };
        let published = match asked.host_ip {
            None => all_of(host, &PORTS)?,
            Some(_) => self.at.clone(),
        };
        let port = |element: &Element| element.key.last_chunk::<4>().map(|[a, b, ..]| [*a, *b]);
        Ok(published
            .iter()
            .filter(|element| element.value == value(ip, asked.container_port))
            .filter_map(|element| Some((element, u16::from_be_bytes(port(element)?))))
            .filter(|(element, port)| element.key == key(&Mapping { host_port: *port, ..*asked }))
            .map(|(_, port)| port)
            .collect())
    }
}

/// The container that an element leads to, if it is the one that published it: else its lease has
/// been given to another, who has not come to take the element out yet.
fn holder(host: &mut Host, element: &Element) -> Result<Option<Ipv4Addr>> {
    let Some(ip) = address(&element.value) else { return Ok(None) };
    let link = host.link(By::Index(index_of(ip)))?;
    Ok(link.filter(|link| link.name == element.comment).map(|_| ip))
}
