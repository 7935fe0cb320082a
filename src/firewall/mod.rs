//! The firewall: two nftables tables of the name netsetgo. That of the family inet lets containers out
//! behind the host's address, and nobody in but by a published port; that of the family bridge lets
//! them send as themselves alone, and keeps them apart. They are brought about by one transaction that
//! can be repeated, looked over at every attach, and healed when somebody has flushed them.

pub mod forwarding;
pub mod others;
mod rules;
mod seal;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use nix::errno::Errno;

use self::forwarding::Forwarding;
use self::rules::{
    ADDRESSES, BEHIND_HOST, BRIDGED, BRIDGES, CHAINS, LAN, LEASES, NAME_SERVERS, ROUTED, SEEN,
    SETS, SUBNETS, Setup, USERS, VERSION, WITHIN, rules,
};
pub use self::rules::{LIVE, LIVE_AT, NAME, PORTS, PORTS_AT, PUBLISHING};
pub use self::seal::Seal;
use crate::kernel::link::{self, By, Kind, Link};
use crate::kernel::netlink;
use crate::kernel::nftables::{Batch, Element, RuleMark, Ruleset};
use crate::network::lease::{ADDRESS_BITS, index_of, owner_of};
use crate::network::pool::Pool;
use crate::network::{Host, bridge};
use crate::report::error::{Failed, Result};
use crate::request::address::{Cidr, IfName, Mac};
use crate::request::policy::{Grant, HostAccess, Isolation, PREFIXES};
use crate::request::ports::Protocol;

const COMMENT: &str = "kept by netsetgo, see netsetgo(8): a rule that is changed is put back";

/// The firewall as it is found, before anything is changed.
#[derive(Debug)]
pub struct Found {
    forwarding: Forwarding,
    /// What the tables are to be made, if they are not as they should be.
    to_be: Option<Setup>,
    /// Whether the user is known, where users are kept apart.
    knows_user: bool,
}

/// Looks at forwarding and the tables, `bridge` being the index of the bridge, if it is there. Nothing
/// is changed.
///
/// # Errors
/// [`Failed::Firewall`], [`Failed::File`].
pub fn find(host: &mut Host, grant: &Grant, bridge: Option<u32>) -> Result<Found> {
    let forwarding = Forwarding::read()?;
    // Other firewalls may let a bridge through by its index, which is another when it is made anew.
    let wanted = bridge.and_then(|bridge| seal::wanted(grant, bridge, forwarding));
    let (seal, knows_user, to_be) = host
        .ruleset(|ruleset| {
            let mut seal = None;
            if let Some(wanted) = wanted {
                let mut found = Seal::new(ruleset.generation()?, wanted);
                found.written = ruleset.element(&SEEN, found.key())?.is_some();
                seal = Some(found);
            }
            let knows_user = grant.isolation != Isolation::User
                || ruleset.element(&USERS, user(grant.uid).key)?.is_some();
            let to_be = match seal {
                Some(Seal { written: true, .. }) => None,
                _ => look_over(ruleset, grant, forwarding)?,
            };
            Ok((seal, knows_user, to_be))
        })?
        .map_err(failed("looking it over"))?;
    host.seal = seal.filter(|_| to_be.is_none());
    Ok(Found { forwarding, to_be, knows_user })
}

/// Brings the tables and forwarding about, where they are not as they should be.
///
/// # Errors
/// [`Failed::Firewall`], and [`Failed::Sysctl`] when forwarding cannot be switched on.
pub fn complete(host: &mut Host, grant: &Grant, found: Found) -> Result<()> {
    make(host, grant, &found, Some(grant.uid))?;
    // After the rule that keeps it to containers.
    if grant.nat { found.forwarding.switch_on(host) } else { Ok(()) }
}

/// Brings the firewall and forwarding about, or makes sure that they are there.
///
/// # Errors
/// Those of [`find`] and [`complete`], and [`Failed::Netlink`].
pub fn ensure(host: &mut Host, grant: &Grant) -> Result<()> {
    let bridge = host.link(By::Name(&grant.bridge))?;
    let found = find(host, grant, bridge.map(|link| link.index))?;
    complete(host, grant, found)
}

/// Mends the firewall, if there is a bridge of containers. Forwarding is left as it is.
///
/// # Errors
/// As [`ensure`].
pub fn mend(host: &mut Host, grant: &Grant) -> Result<()> {
    let Some(bridge) = host.link(By::Name(&grant.bridge))? else { return Ok(()) };
    let found = find(host, grant, Some(bridge.index))?;
    make(host, grant, &found, None)
}

/// Spares the next run the look at every rule, if this one has had it. It is a courtesy: where it
/// cannot be, the next one looks.
///
/// # Errors
/// [`Failed::Caller`].
pub fn seal(host: &mut Host) -> Result<()> {
    let Some(seal) = host.seal.as_mut().filter(|seal| !seal.written) else { return Ok(()) };
    seal.written = true;
    let generation = seal.generation;
    host.commit(Batch::default(), generation).map(drop)
}

/// Whether a run has seen the tables to be whole, and nothing in their way, and nobody has changed
/// anything since.
pub fn is_sealed(host: &Host) -> bool {
    host.seal.is_some_and(|seal| seal.written)
}

/// What there is to say of the firewall before anything is changed.
///
/// # Errors
/// [`Failed::Firewall`], [`Failed::File`].
pub fn look(host: &mut Host, grant: &Grant) -> Result<&'static str> {
    let forwarding = Forwarding::read()?;
    let to_be = host
        .ruleset(|ruleset| look_over(ruleset, grant, forwarding))?
        .map_err(failed("looking it over"))?;
    Ok(match (to_be.is_none(), grant.nat, forwarding) {
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

/// Looks at every rule. Gives what the tables are to be made, if they are not as they should be.
fn look_over(
    ruleset: &mut Ruleset,
    grant: &Grant,
    forwarding: Forwarding,
) -> Result<Option<Setup>, netlink::Error> {
    let seen = Seen::of(ruleset)?;
    let setup = seen.setup(grant, forwarding);
    let stand = seen.has(setup) && has_elements(ruleset, grant, setup)?;
    Ok((!stand).then_some(setup))
}

/// Has both tables stand, `newcomer` among the users.
fn make(host: &mut Host, grant: &Grant, found: &Found, newcomer: Option<u32>) -> Result<()> {
    if let Some(setup) = found.to_be {
        return build(host, grant, setup, newcomer);
    }
    if found.knows_user || newcomer.is_none() {
        return Ok(());
    }
    // Should somebody have flushed the set, the others miss theirs as well.
    let users: Vec<_> = users(host, newcomer)?.into_iter().map(user).collect();
    let batch = || {
        let mut batch = Batch::default();
        batch.add(&USERS, &users);
        batch
    };
    if let Some(seal) = host.seal
        && host.commit(batch(), seal.generation)?.is_ok()
    {
        return Ok(());
    }
    // There is no seal to take along, or somebody has changed something meanwhile.
    commit(host, batch())?.map_err(failed("changing it"))
}

/// The tables as they are found.
struct Seen {
    /// Whether both are there, and in force.
    in_force: bool,
    rules: Vec<RuleMark>,
}

impl Seen {
    fn of(ruleset: &mut Ruleset) -> Result<Seen, netlink::Error> {
        let in_force = ruleset.has_table(ROUTED)? && ruleset.has_table(BRIDGED)?;
        let rules = [ruleset.marks(ROUTED)?, ruleset.marks(BRIDGED)?].concat();
        Ok(Seen { in_force, rules: by_chain(rules) })
    }

    /// Which rules there are to be. What an earlier policy with `nat = true` has brought about stays:
    /// the host may still forward.
    fn setup(&self, grant: &Grant, forwarding: Forwarding) -> Setup {
        let was_nat = || {
            let behind_host = |(family, chain, _): &RuleMark| {
                *family == ROUTED.family && chain == BEHIND_HOST.name
            };
            self.rules.iter().any(behind_host)
        };
        Setup {
            nat: grant.nat || was_nat(),
            no_router: forwarding.for_containers_only(),
            isolation: grant.isolation,
            host_access: grant.host_access,
        }
    }

    /// Whether the rules are there. What a rule refers to, chain or set, cannot be deleted while the
    /// rule is there; elements can.
    fn has(&self, setup: Setup) -> bool {
        let wanted = by_chain(rules(setup).map(|rule| rule.mark(VERSION)).collect());
        self.in_force && self.rules == wanted
    }
}

/// Rules chain by chain, each chain's in their order.
fn by_chain(mut rules: Vec<RuleMark>) -> Vec<RuleMark> {
    rules.sort_by(|(family, chain, _), (other, others, _)| (family, chain).cmp(&(other, others)));
    rules
}

/// Whether the sets have what this network needs. They are made as a whole, so of many elements one
/// tells.
fn has_elements(
    ruleset: &mut Ruleset,
    grant: &Grant,
    setup: Setup,
) -> Result<bool, netlink::Error> {
    let subnet = grant.address;
    let needed = [
        (&BRIDGES, padded(&grant.bridge)),
        (&WITHIN, pair(&grant.bridge)),
        (&LEASES, lease(Pool::of(subnet).nth(0)).key),
    ];
    for (set, key) in needed {
        if ruleset.element(set, key)?.is_none() {
            return Ok(false);
        }
    }
    if setup.host_access == HostAccess::Published {
        let servers = ruleset.elements(&NAME_SERVERS)?;
        let wanted = name_servers(grant);
        // Also those that the policy no longer names.
        if servers.len() != wanted.len() || !wanted.iter().all(|server| servers.contains(server)) {
            return Ok(false);
        }
    }
    let apart = setup.isolation == Isolation::None
        || covers(&ruleset.elements(&ADDRESSES)?, &addresses(Pool::of(subnet)), subnet);
    Ok(apart && covers(&ruleset.elements(&SUBNETS)?, &range(subnet), subnet))
}

/// Whether a set of ranges has these, and in this subnet no others.
fn covers(ranges: &[Element], own: &[Element], subnet: Cidr) -> bool {
    let within = |element: &Element| {
        let ip = element.key.first_chunk().copied().map(Ipv4Addr::from);
        // Where this one begins another may end.
        let before = element.end && ip == Some(subnet.network());
        ip.is_some_and(|ip| subnet.contains(ip)) && !before
    };
    own.iter().all(|element| ranges.contains(element))
        && ranges.iter().all(|element| own.contains(element) || !within(element))
}

/// Makes the tables, or what is missing of them. Published ports stay where they still are.
fn build(host: &mut Host, grant: &Grant, setup: Setup, newcomer: Option<u32>) -> Result<()> {
    let lan = if setup.nat && setup.no_router { host.bridges()? } else { Vec::new() };
    let lan: Vec<_> = lan.iter().filter(|name| **name != grant.bridge).collect();
    let subnets = subnets(host, grant)?;
    let users = match setup.isolation {
        Isolation::User => users(host, newcomer)?,
        _ => BTreeSet::new(),
    };
    let batch = |from_scratch: bool| {
        let mut batch = Batch::default();
        for table in [ROUTED, BRIDGED] {
            batch.add_table(table, COMMENT);
            if from_scratch {
                batch.delete_table(table);
                batch.add_table(table, COMMENT);
            }
        }
        SETS.iter().for_each(|set| batch.add_set(set));
        for chain in CHAINS {
            // One of NAT has the kernel track connections, whether it has rules or not.
            if rules(setup).any(|rule| rule.chain.name == chain.name) {
                batch.add_chain(chain);
            }
        }
        [ROUTED, BRIDGED].into_iter().for_each(|table| batch.flush_rules(table));
        rules(setup).for_each(|rule| batch.add_rule(rule, VERSION));
        for set in [&LAN, &SUBNETS, &NAME_SERVERS, &LEASES, &ADDRESSES, &USERS] {
            batch.flush(set);
        }
        batch.add(&BRIDGES, &[Element::key(padded(&grant.bridge))]);
        batch.add(&WITHIN, &[Element::key(pair(&grant.bridge))]);
        batch.add(&NAME_SERVERS, &name_servers(grant));
        for subnet in &subnets {
            batch.add(&SUBNETS, &range(*subnet));
        }
        for subnet in subnets.iter().filter(|subnet| PREFIXES.contains(&subnet.prefix)) {
            let pool = Pool::of(*subnet);
            batch.add(&LEASES, &pool.all().map(lease).collect::<Vec<_>>());
            batch.add(&ADDRESSES, &addresses(pool));
        }
        batch.add(&USERS, &users.iter().copied().map(user).collect::<Vec<_>>());
        let names = |name: &&IfName| Element::key(padded(name));
        let pairs = |name: &&IfName| Element::key(pair(name));
        batch.add(&LAN, &lan.iter().map(names).collect::<Vec<_>>());
        batch.add(&WITHIN, &lan.iter().map(pairs).collect::<Vec<_>>());
        batch
    };
    let made = match commit(host, batch(false))? {
        // What is there cannot be made into what it should be: a set or a chain of that name is
        // another one, or a table is dormant.
        Err(error)
            if [Errno::EEXIST, Errno::EBUSY, Errno::EOPNOTSUPP].iter().any(|e| error.is(*e)) =>
        {
            commit(host, batch(true))?
        }
        done => done,
    };
    made.map_err(failed("making it"))
}

fn commit(host: &mut Host, batch: Batch) -> Result<Result<(), netlink::Error>> {
    host.ruleset(|ruleset| ruleset.commit(batch, None))
}

/// The users who have containers, and one who is about to.
fn users(host: &mut Host, newcomer: Option<u32>) -> Result<BTreeSet<u32>> {
    let links = link::all(&mut host.netlink, Kind::Veth)
        .map_err(Failed::netlink("looking the containers' links up"))?;
    let owners = links.iter().filter_map(|link| owner_of(&link.name));
    Ok(owners.chain(newcomer).collect())
}

/// The subnets of containers: this network's, and those of the other bridges that are in the table.
fn subnets(host: &mut Host, grant: &Grant) -> Result<Vec<Cidr>> {
    let mut subnets = vec![grant.address];
    for other in bridges(host)?.iter().filter(|link| link.name != grant.bridge.as_str()) {
        let addresses = bridge::addresses(&mut host.netlink, other.index)?;
        subnets.extend(addresses.into_iter().filter(|subnet| !subnet.overlaps(grant.address)));
    }
    Ok(subnets)
}

/// The bridges that are in the table.
///
/// # Errors
/// [`Failed::Firewall`], [`Failed::Netlink`].
pub fn bridges(host: &mut Host) -> Result<Vec<Link>> {
    let known = host.ruleset(|ruleset| ruleset.elements(&BRIDGES))?;
    let mut links = Vec::new();
    for element in known.map_err(failed("reading it"))? {
        let name: Vec<u8> = element.key.into_iter().take_while(|byte| *byte != 0).collect();
        if let Some(name) = String::from_utf8(name).ok().and_then(|name| name.parse().ok()) {
            links.extend(host.link(By::Name(&name))?);
        }
    }
    Ok(links)
}

/// The name of an interface as nf_tables compares it: filled up with zeros.
fn padded(name: &IfName) -> Vec<u8> {
    let mut bytes = name.as_str().as_bytes().to_vec();
    bytes.resize(IfName::LONGEST + 1, 0);
    bytes
}

fn pair(name: &IfName) -> Vec<u8> {
    [padded(name), padded(name)].concat()
}

/// A lease as an element: what a container with this address sends from.
fn lease(ip: Ipv4Addr) -> Element {
    let index = (index_of(ip) & ADDRESS_BITS).to_ne_bytes();
    Element::key([&index[..], &Mac::of(ip).0, &[0; 2], &ip.octets()].concat())
}

/// What a user's ports are named, whatever their slot, as a pair of two of them.
fn user(uid: u32) -> Element {
    let filled = |with: u8| {
        let mut name = format!("ns{uid}-").into_bytes();
        name.resize(IfName::LONGEST + 1, with);
        name.repeat(2)
    };
    Element { last: filled(u8::MAX), ..Element::key(filled(0)) }
}

/// The policy's name servers as elements: what a client asks.
fn name_servers(grant: &Grant) -> Vec<Element> {
    const DOMAIN: u16 = 53;
    let [high, low] = DOMAIN.to_be_bytes();
    let at = |ip: &Ipv4Addr| {
        let ip = ip.octets();
        Protocol::ALL.map(|protocol| {
            let protocol = [protocol.number(), 0, 0, 0];
            Element::key([protocol, ip, [high, low, 0, 0]].concat())
        })
    };
    // A policy may say one twice, a set has it once.
    let servers: BTreeSet<_> = grant.dns.iter().flatten().collect();
    servers.into_iter().flat_map(at).collect()
}

/// A subnet as elements.
fn range(subnet: Cidr) -> Vec<Element> {
    from_to(subnet.network(), subnet.broadcast())
}

/// What of a subnet containers can have, as elements.
fn addresses(pool: Pool) -> Vec<Element> {
    pool.ranges().into_iter().flat_map(|(first, last)| from_to(first, last)).collect()
}

/// A range as elements: where it begins, and before what it ends.
fn from_to(first: Ipv4Addr, last: Ipv4Addr) -> Vec<Element> {
    let begin = Element::key(first.octets().to_vec());
    let end = last
        .to_bits()
        .checked_add(1)
        .map(|beyond| Element { end: true, ..Element::key(beyond.to_be_bytes().to_vec()) });
    [Some(begin), end].into_iter().flatten().collect()
}

/// For `map_err`: a request to nf_tables that failed, and what it was to do.
pub fn failed(
    what: &'static str,
) -> impl Fn(crate::kernel::netlink::Error) -> crate::report::error::Error {
    move |error| Failed::Firewall(what, error).into()
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hash, Hasher};

    use super::rules::all_rules;
    use super::*;
    use crate::kernel::nftables::Rule;

    #[test]
    fn rules_that_are_changed_are_of_another_version() {
        let mut hasher = DefaultHasher::new();
        for rule in all_rules() {
            format!("{} {} {:?}", rule.chain.name, rule.comment, (rule.phrases)())
                .hash(&mut hasher);
        }
        // Raise the version, and then write here what the rules are now.
        assert_eq!((VERSION, hasher.finish()), (6, 6_489_566_345_425_486_121));
    }

    #[test]
    fn every_rule_is_in_a_chain_that_is_made() {
        let made = |rule: &Rule| CHAINS.iter().any(|chain| chain.name == rule.chain.name);
        assert!(all_rules().all(made));
    }

    #[test]
    fn no_two_rules_look_the_same() {
        let marks: std::collections::HashSet<_> =
            all_rules().map(|rule| rule.mark(VERSION)).collect();
        assert_eq!(marks.len(), all_rules().count());
    }

    #[test]
    fn a_subnet_is_a_range_that_ends_before_the_next() {
        let keys = |text: &str| -> Vec<(Vec<u8>, bool)> {
            let elements = range(text.parse().unwrap());
            elements.into_iter().map(|element| (element.key, element.end)).collect()
        };
        assert_eq!(
            keys("10.10.10.1/24"),
            [(vec![10, 10, 10, 0], false), (vec![10, 10, 11, 0], true)]
        );
        assert_eq!(keys("255.255.255.1/24"), [(vec![255, 255, 255, 0], false)]);
    }

    #[test]
    fn a_subnet_is_covered_by_its_own_range_alone() {
        let ranges = |subnets: &[&str]| -> Vec<Element> {
            subnets.iter().flat_map(|subnet| range(subnet.parse().unwrap())).collect()
        };
        let subnet = "10.10.8.1/22".parse().unwrap();
        let own = range(subnet);
        assert!(covers(&ranges(&["10.10.8.1/22"]), &own, subnet));
        assert!(covers(&ranges(&["10.10.12.1/24", "10.10.8.1/22", "10.10.7.1/24"]), &own, subnet));
        for others in
            [&[][..], &["10.10.8.1/24"], &["10.10.0.1/16"], &["10.10.8.1/22", "10.10.9.1/24"]]
        {
            assert!(!covers(&ranges(others), &own, subnet), "{others:?}");
        }
    }
}
