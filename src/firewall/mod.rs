//! The firewall: two nftables tables of the name netsetgo. The table of the family inet gives containers
//! a way out behind the host's address, and lets others reach them by published ports only. The table of
//! the family bridge keeps containers from forging a source, and apart from each other. One transaction
//! makes both; it can be repeated. Every attach looks at them, and makes them anew where they are not
//! whole.

pub mod dnat;
mod elements;
pub mod forwarding;
pub mod others;
mod rules;
mod tables;
mod transaction;
mod verify;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use nix::errno::Errno;

use self::forwarding::Forwarding;
use self::rules::Setup;
use self::tables::*;
pub use self::tables::{LIVE, NAME, OWNERS, PORTS, PUBLISHING};
pub use self::transaction::{Step, optimistic, optimistic_mending};
pub use self::verify::Seen;
use crate::kernel::link::{By, Link};
use crate::kernel::nftables::{Batch, Element};
use crate::network::lease::{address_of, user_of};
use crate::network::pool::Pool;
use crate::network::{Host, bridge, owner};
use crate::report::error::Result;
use crate::request::address::Cidr;
use crate::request::policy::{Grant, PREFIXES};

/// How many seconds' fragments a user's containers may send at once.
const FRAGMENT_BURST: u32 = 4;

const COMMENT: &str = "kept by netsetgo, see netsetgo(8): a rule that is changed is put back";

/// Looks at the tables. Nothing is changed.
pub fn look(host: &mut Host, grant: &Grant) -> Result<Seen> {
    let forwarding = Forwarding::read()?;
    host.ruleset("reading it", |ruleset| verify::look(ruleset, grant, forwarding))
}

/// What there is to say of the firewall before anything is changed.
pub fn describe(host: &mut Host, grant: &Grant) -> Result<&'static str> {
    let seen = look(host, grant)?;
    Ok(match (seen.whole, grant.nat, Forwarding::read()?) {
        (_, true, Forwarding::Off) => {
            "ip_forward is 0; the first attach makes it 2, for containers only"
        }
        (false, ..) => "the tables netsetgo are missing or incomplete; the next attach makes them",
        (true, false, _) => "the tables netsetgo are complete, and without nat",
        (true, true, Forwarding::Ours) => {
            "the tables netsetgo are complete, forwarding is for containers"
        }
        (true, true, Forwarding::Others) => {
            "the tables netsetgo are complete, the host is a router"
        }
    })
}

/// Brings about what `seen` lacks: the tables, with this user in it, and forwarding.
pub fn complete(host: &mut Host, grant: &Grant, seen: &Seen) -> Result<()> {
    if !seen.whole || !seen.knows_user {
        make(host, grant, Some(grant.uid))?;
    }
    // After the rule that keeps it to containers.
    if grant.nat { forwarding::switch_on(host) } else { Ok(()) }
}

/// Makes the tables anew where they are not whole, if there is a bridge of containers.
pub fn mend(host: &mut Host, grant: &Grant) -> Result<()> {
    match host.link(By::Name(&grant.bridge))? {
        Some(_) => make(host, grant, None),
        None => Ok(()),
    }
}

fn make(host: &mut Host, grant: &Grant, newcomer: Option<u32>) -> Result<()> {
    let attempt = |host: &mut Host, from_scratch: bool| {
        optimistic(host, |host| {
            let seen = look(host, grant)?;
            let leases = host.leases()?;
            let users = leases.iter().filter_map(|link| user_of(&link.name));
            let users: BTreeSet<u32> = users.chain(newcomer).collect();
            let users: Vec<_> = users.into_iter().map(elements::user).collect();
            let mut batch = Batch::default();
            if !seen.whole {
                let remembers = seen.remembers && !from_scratch;
                if !remembers {
                    // Without the memory of their owners, any user may get them next.
                    let subnet = grant.address;
                    host.forget_flows_of_free(|ip| subnet.is_host(ip) && ip != subnet.ip)?;
                }
                let owners = owners(host, grant, remembers, &leases)?;
                add_tables(&mut batch, &seen.setup, from_scratch);
                add_network(&mut batch, grant, &subnets(host, grant)?);
                set_owners(&mut batch, grant, &owners);
            }
            if !seen.whole || newcomer.is_some() && !seen.knows_user {
                batch.add(&USERS, &users);
            }
            Ok(Step::Commit(batch, ()))
        })
    };
    // What is there cannot be made into what it should be: a set or chain of that name is another one,
    // or a table is dormant.
    let other = [Errno::EEXIST, Errno::EBUSY, Errno::EOPNOTSUPP];
    match attempt(host, false) {
        Err(error) if other.iter().any(|errno| error.is(*errno)) => attempt(host, true),
        done => done,
    }
}

/// Adds tables, sets, chains and rules, or what is missing of them. Published ports stay.
fn add_tables(batch: &mut Batch, setup: &Setup, from_scratch: bool) {
    for table in [ROUTED, BRIDGED] {
        batch.add_table(table, COMMENT);
        if from_scratch {
            batch.delete_table(table);
            batch.add_table(table, COMMENT);
        }
    }
    SETS.iter().for_each(|set| batch.add_set(set));
    // A NAT chain without rules would make the kernel track connections all the same.
    setup.rules().for_each(|(rule, _)| batch.add_chain(rule.chain));
    [ROUTED, BRIDGED].into_iter().for_each(|table| batch.flush_rules(table));
    let version = setup.version();
    setup.rules().for_each(|(rule, statements)| {
        batch.add_rule(rule, &version, statements(setup));
    });
}

/// Adds what the rules have to know of the network.
fn add_network(batch: &mut Batch, grant: &Grant, subnets: &[Cidr]) {
    for set in [&SUBNETS, &NAME_SERVERS, &PROTOCOLS, &LEASES, &ADDRESSES, &USERS] {
        batch.flush(set);
    }
    // Their elements have the limits of an earlier policy.
    for set in [&CONNECTIONS, &TO_PORT, &TO_HOST_ICMP, &OWNERS, &OWNED, &FRAGMENTS] {
        batch.flush(set);
    }
    batch.add(&BRIDGES, &[elements::bridge(&grant.bridge)]);
    batch.add(&WITHIN, &[elements::within(&grant.bridge)]);
    batch.add(&NAME_SERVERS, &elements::name_servers(grant));
    batch.add(&PROTOCOLS, &elements::protocols(grant));
    for subnet in subnets {
        batch.add(&SUBNETS, &elements::subnet(*subnet));
        if PREFIXES.contains(&subnet.prefix) {
            let pool = Pool(*subnet);
            batch.add(&LEASES, &pool.all().map(elements::lease).collect::<Vec<_>>());
            batch.add(&ADDRESSES, &elements::addresses(pool));
        }
    }
}

/// The users who have addresses. Without a memory these are the users of containers, and who had the other
/// addresses is not known any more. An address whose bridge port is closed may not have been claimed yet.
fn owners(host: &mut Host, grant: &Grant, remembers: bool, leases: &[Link]) -> Result<Vec<Owner>> {
    if remembers {
        let owner = |element: &Element| Some((element.ipv4()?, owner::uid(element)?));
        return Ok(host.elements(&OWNERS)?.iter().filter_map(owner).collect());
    }
    let owner = |link: &Link| {
        let address = address_of(link.index, grant.address)?;
        // Only root can give a host end another name.
        Some((address.ip, user_of(&link.name).unwrap_or_default()))
    };
    let living = leases.iter().filter(|link| link.up).filter_map(owner);
    Ok(living.chain([(grant.address.ip, 0)]).collect())
}

/// An address, and the user who has it.
type Owner = (Ipv4Addr, u32);

/// Notes which users have these addresses.
pub fn set_owners(batch: &mut Batch, grant: &Grant, owners: &[Owner]) {
    let rate = grant.fragments.max(1);
    for uid in owners.iter().map(|(_, uid)| *uid).collect::<BTreeSet<u32>>() {
        batch.add_limit(ROUTED, &elements::limit(uid, rate), rate, rate * FRAGMENT_BURST);
    }
    let each = |element: fn(Owner, u32) -> Element| -> Vec<Element> {
        owners.iter().map(|owner| element(*owner, rate)).collect()
    };
    batch.add(&OWNERS, &each(|(ip, uid), _| elements::owner(ip, uid)));
    batch.add(&OWNED, &each(|(ip, uid), _| elements::owned(ip, uid)));
    batch.add(&FRAGMENTS, &each(|(ip, uid), rate| elements::fragments(ip, uid, rate)));
}

/// Notes that this user has the address no longer. The error is ENOENT if that is not so.
pub fn unset_owner(batch: &mut Batch, (ip, uid): Owner) {
    batch.delete(&OWNERS, &[elements::owner(ip, uid)]);
    batch.delete(&OWNED, &[elements::owned(ip, uid)]);
    batch.delete(&FRAGMENTS, &[Element::key(ip.octets().into())]);
}

/// The subnets of containers: this network's, and those of the other bridges that are in the tables.
fn subnets(host: &mut Host, grant: &Grant) -> Result<Vec<Cidr>> {
    let mut subnets = vec![grant.address];
    for other in bridges(host)?.iter().filter(|link| link.name != grant.bridge.as_str()) {
        let addresses = bridge::addresses(&mut host.netlink, other.index)?;
        subnets.extend(addresses.into_iter().filter(|subnet| !subnet.overlaps(grant.address)));
    }
    Ok(subnets)
}

/// The bridges that are in the tables.
pub fn bridges(host: &mut Host) -> Result<Vec<Link>> {
    let known = host.elements(&BRIDGES)?;
    let mut links = Vec::new();
    for element in known {
        let name: Vec<u8> = element.key.into_iter().take_while(|byte| *byte != 0).collect();
        if let Some(name) = String::from_utf8(name).ok().and_then(|name| name.parse().ok()) {
            links.extend(host.link(By::Name(&name))?);
        }
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{DefaultHasher, Hash, Hasher};

    use super::*;
    use crate::request::policy::HostAccess;

    /// A setup that has nearly all rules.
    fn setup() -> Setup {
        Setup::new(&Grant { host_access: HostAccess::Published, ..Grant::default() }, true, true)
    }

    #[test]
    fn rules_that_are_changed_are_of_another_version() {
        let mut hasher = DefaultHasher::new();
        for (rule, statements) in setup().rules() {
            format!("{} {} {:?}", rule.chain.name, rule.comment, statements(&setup()))
                .hash(&mut hasher);
        }
        // Raise the version, and then write here what the rules are now.
        assert_eq!((setup().version()[0], hasher.finish()), (8, 14_516_675_452_036_988_565));
    }

    #[test]
    fn no_two_rules_look_the_same() {
        let marks: HashSet<_> = setup().rules().map(|(rule, _)| rule.mark(&[])).collect();
        assert_eq!(marks.len(), setup().rules().count());
    }
}
