//! The firewall: two nftables tables of the name netsetgo. The table of the family inet gives containers
//! a way out behind the host's address, and lets others reach them by published ports only. The table of
//! the family bridge keeps containers from forging a source, and apart from each other. One transaction
//! makes both; it can be repeated. Every attach looks at them, and makes them anew where they are not
//! whole.

mod bridged;
pub mod dnat;
mod elements;
pub mod forwarding;
pub mod others;
mod routed;
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
use crate::network::lease::{address_of, holder_of, user_of};
use crate::network::pool::Pool;
use crate::network::take::TRIES;
use crate::network::{Host, bridge, owner};
use crate::report::error::{Failed, Result};
use crate::request::address::Cidr;
use crate::request::policy::{Grant, PREFIXES};

/// How many seconds' fragments a user's containers may send at once.
const FRAGMENT_BURST: u32 = 4;

const COMMENT: &str = "kept by netsetgo, see netsetgo(8): a rule that is changed is put back";

/// Looks at the tables. Nothing is changed.
pub fn look<'a>(host: &mut Host, grant: &'a Grant) -> Result<Seen<'a>> {
    let generation = host.generation()?;
    let forwarding = Forwarding::read()?;
    let look = |ruleset: &mut _| verify::look(ruleset, grant, forwarding, generation);
    let seen = host.ruleset("reading it", look)?;
    host.whole = (seen.whole && seen.knows_user).then_some(generation);
    Ok(seen)
}

/// What there is to say of the firewall before anything is changed.
pub fn describe(host: &mut Host, grant: &Grant) -> Result<&'static str> {
    let seen = look(host, grant)?;
    Ok(match (seen.whole, grant.nat, seen.setup.no_router) {
        _ if grant.nat && seen.forwarding == Forwarding::Off => {
            "ip_forward is 0; the first attach makes it 2, for containers only"
        }
        (false, ..) => "the tables netsetgo are missing or incomplete; the next attach makes them",
        (true, false, _) => "the tables netsetgo are complete, and without nat",
        (true, true, true) => "the tables netsetgo are complete, forwarding is for containers",
        (true, true, false) => "the tables netsetgo are complete, the host is a router",
    })
}

/// Brings about what `seen` lacks: the tables, with this user in it, and forwarding.
pub fn complete(host: &mut Host, grant: &Grant, seen: &Seen) -> Result<()> {
    match seen.whole && seen.knows_user {
        true => Ok(()),
        false => make(host, grant, Some(grant.uid)),
    }
}

/// Completes the firewall until nothing has changed since this run has seen it whole. Whatever has, the
/// policy may have changed as well.
pub fn settle(host: &mut Host, grant: &Grant) -> Result<()> {
    for _ in 0..TRIES {
        let generation = host.generation()?;
        if host.whole == Some(generation) {
            return Ok(());
        }
        host.check_policy()?;
        let seen = look(host, grant)?;
        complete(host, grant, &seen)?;
    }
    Err(Failed::Contended.into())
}

/// The same without a new user, if there is a bridge of containers.
pub fn mend(host: &mut Host, grant: &Grant) -> Result<()> {
    match host.link(By::Name(&grant.bridge))? {
        Some(_) => make(host, grant, None),
        None => Ok(()),
    }
}

/// Lets the present policy and forwarding hold against runs that have looked at former ones and are
/// stopped: a new generation of the ruleset ends their transactions. Only for root, whom no other user
/// can stop in between.
pub fn overrule(host: &mut Host, grant: &Grant) -> Result<()> {
    let begun = optimistic(host, |_| {
        let mut batch = Batch::default();
        // It is there. To the kernel that is a transaction.
        batch.add_chain(&SENT);
        Ok(Step::Commit(batch, ()))
    });
    match begun {
        // There are no tables.
        Err(error) if error.is(Errno::ENOENT) => return Ok(()),
        begun => begun?,
    }
    let seen = look(host, grant)?;
    match seen.forwarding {
        Forwarding::Ours if !seen.setup.no_router => forwarding::restore(host),
        _ => Ok(()),
    }
}

fn make(host: &mut Host, grant: &Grant, newcomer: Option<u32>) -> Result<()> {
    let attempt = |host: &mut Host, from_scratch: bool| {
        optimistic(host, |host| {
            let seen = look(host, grant)?;
            if seen.whole && (newcomer.is_none() || seen.knows_user) {
                return Ok(Step::Done(seen.forwarding));
            }
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
            batch.add(&USERS, &users);
            host.whole = Some(seen.generation);
            Ok(Step::Commit(batch, seen.forwarding))
        })
    };
    // What is there cannot be made into what it should be: a set or chain of that name is another one,
    // or a table is dormant.
    let other = [Errno::EEXIST, Errno::EBUSY, Errno::EOPNOTSUPP];
    let forwarding = match attempt(host, false) {
        Err(error) if other.iter().any(|errno| error.is(*errno)) => attempt(host, true)?,
        done => done?,
    };
    // After the rule that keeps it to containers, and only then.
    if forwarding == Forwarding::Off && grant.nat { forwarding::switch_on(host) } else { Ok(()) }
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
    batch.add_tcp_timeouts(ROUTED, TIMEOUTS.0, &TIMEOUTS.1);
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
        return Ok(owner::all(host)?.into_iter().collect());
    }
    let owner =
        |link: &Link| Some((address_of(link.index, grant.address)?.ip, holder_of(&link.name)));
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

    #[test]
    fn rules_that_are_changed_are_of_another_version() {
        let setup = Setup { policy: &Grant::default(), nat: true, forwards: true, no_router: true };
        let mut hasher = DefaultHasher::new();
        for (rule, statements) in setup.rules() {
            format!("{} {} {:?}", rule.chain.name, rule.comment, statements(&setup))
                .hash(&mut hasher);
        }
        // Raise the version, and then write here what the rules are now.
        assert_eq!((setup.version()[0], hasher.finish()), (8, 6_213_779_187_046_638_764));
    }

    #[test]
    fn no_two_rules_look_the_same() {
        let setup = Setup { policy: &Grant::default(), nat: true, forwards: true, no_router: true };
        let marks: HashSet<_> = setup.rules().map(|(rule, _)| rule.mark(&[])).collect();
        assert_eq!(marks.len(), setup.rules().count());
    }
}
