//! The firewall: one nftables table, `inet netsetgo`, that lets containers out behind the host's
//! address, and nobody in but by a published port. It is brought about by one transaction that can be
//! repeated, looked over at every attach, and healed when somebody has flushed it.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use netlink_packet_netfilter::nftables::InetHookNumber;
use nix::errno::Errno;

use super::forwarding::Forwarding;
use super::{Host, bridge};
use crate::address::{Cidr, IfName};
use crate::error::{Failed, Result};
use crate::link::{By, Link};
use crate::nftables::expression::{
    Phrase, accept, ct_address_ports_in, ct_direction_reply, ct_ports_in, ct_reply_saddr_in,
    ct_state_none, ct_state_related, ct_status_dnat, daddr_in, daddr_loopback,
    dnat_by_address_and_port, dnat_by_port, drop, fib_daddr_local, iif_not_lo, iifkind_bridge,
    iifname_in, iifname_not_in, iifname_oifname_in, is_ipv4, jump, l4proto_tcp, l4proto_udp,
    masquerade, masquerade_to, oifname_in, oifname_not_in, saddr_in, saddr_loopback,
};
use crate::nftables::{Batch, Chain, Element, Kind, Rule, Set};
use crate::policy::Grant;

/// The table's name.
pub const TABLE: &str = "netsetgo";

const COMMENT: &str = "kept by netsetgo, see netsetgo(8): a rule that is changed is put back";

/// The bridges of the containers.
const BRIDGES: Set = Set {
    name: "bridges",
    comment: "the containers' bridges",
    key: &[Kind::IfName],
    value: &[],
    ranges: false,
};

/// The pairs of an interface and itself that frames pass between without being routed.
const WITHIN: Set = Set {
    name: "within",
    comment: "a bridge and itself: what stays within it is not routed",
    key: &[Kind::IfName, Kind::IfName],
    value: &[],
    ranges: false,
};

/// The host's own bridges, if it was no router.
const LAN: Set = Set {
    name: "lan",
    comment: "bridges that were there when netsetgo switched forwarding on",
    key: &[Kind::IfName],
    value: &[],
    ranges: false,
};

const SUBNETS: Set = Set {
    name: "subnets",
    comment: "the containers' subnets",
    key: &[Kind::Ipv4],
    value: &[],
    ranges: true,
};

/// The containers whose addresses an element of one of the maps may lead to.
pub const PUBLISHING: Set = Set {
    name: "publishing",
    comment: "containers that publish a port",
    key: &[Kind::Ipv4],
    value: &[],
    ranges: false,
};

/// Ports that are published on every address of the host, and where they lead to.
pub const PORTS: Set = Set {
    name: "ports",
    comment: "published on every address of the host",
    key: &[Kind::Protocol, Kind::Port],
    value: &[Kind::Ipv4, Kind::Port],
    ranges: false,
};

/// Ports that are published on one address of the host.
pub const PORTS_AT: Set = Set {
    name: "ports_at",
    comment: "published on one address of the host",
    key: &[Kind::Protocol, Kind::Ipv4, Kind::Port],
    value: &[Kind::Ipv4, Kind::Port],
    ranges: false,
};

/// The same as the two maps, by all that a connection knows of it: as long as one is in here, its
/// connections go on.
pub const LIVE: Set = Set {
    name: "live",
    comment: "the connections that the map ports stands for",
    key: &[Kind::Protocol, Kind::Port, Kind::Ipv4, Kind::Port],
    value: &[],
    ranges: false,
};

/// Likewise for [`PORTS_AT`].
pub const LIVE_AT: Set = Set {
    name: "live_at",
    comment: "the connections that the map ports_at stands for",
    key: &[Kind::Protocol, Kind::Ipv4, Kind::Port, Kind::Ipv4, Kind::Port],
    value: &[],
    ranges: false,
};

const SETS: [Set; 9] = [BRIDGES, WITHIN, LAN, SUBNETS, PUBLISHING, PORTS, PORTS_AT, LIVE, LIVE_AT];

/// Priorities of base chains (`enum nf_ip_hook_priorities`, `linux/netfilter_ipv4.h`).
const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

const CHAINS: [Chain; 9] = [
    base("arriving", "filter", InetHookNumber::PreRouting, RAW),
    base("to_host", "nat", InetHookNumber::PreRouting, DSTNAT),
    base("from_host", "nat", InetHookNumber::LocalOut, DSTNAT),
    Chain { name: "to_container", base: None },
    base("forwarded", "filter", InetHookNumber::Forward, FILTER),
    Chain { name: "no_router", base: None },
    base("leaving", "filter", InetHookNumber::PostRouting, FILTER),
    Chain { name: "published", base: None },
    base("behind_host", "nat", InetHookNumber::PostRouting, SRCNAT),
];

const fn base(
    name: &'static str,
    kind: &'static str,
    hook: InetHookNumber,
    priority: i32,
) -> Chain {
    Chain { name, base: Some((kind, hook, priority)) }
}

/// The version of the rules below: a rule of another is not taken for one of these. To be raised
/// with every change of them.
const VERSION: u8 = 2;

/// The ports of the host's that containers send from. What a remote host sends to the port that a
/// flow comes from is an answer, and goes to who began the flow. So a container that could choose the
/// port would get what a remote client sends to another's published port, or to a program of the
/// host's. These are the lower ones of those for clients (`ip_local_port_range`), below those that root
/// gets a free one of.
const CLIENT_PORTS: RangeInclusive<u16> = 32768..=49151;

/// The chain that keeps the host from routing for others than containers, and what leads there.
const NO_ROUTER: &str = "no_router";
const FOR_CONTAINERS_ONLY: &str =
    "netsetgo switched forwarding on (ip_forward is 2), for containers only";

/// The rules, chain by chain in the order of [`CHAINS`].
#[rustfmt::skip] // A rule in two lines: it is read as nft lists it.
const RULES: [Rule; 31] = [
    rule("arriving", "no wire reaches 127.0.0.1, whatever route_localnet says",
        || [iif_not_lo(), daddr_loopback(), drop()].concat()),
    rule("arriving", "nor speaks for it",
        || [iif_not_lo(), saddr_loopback(), drop()].concat()),

    rule("to_host", "published ports, from outside and from containers",
        || [fib_daddr_local(), jump("to_container")].concat()),
    rule("from_host", "published ports, from the host itself",
        || [fib_daddr_local(), jump("to_container")].concat()),
    rule("to_container", "a port of one address",
        || dnat_by_address_and_port(&PORTS_AT)),
    rule("to_container", "a port of every address",
        || [is_ipv4(), dnat_by_port(&PORTS)].concat()),

    rule("forwarded", "from container to container of one bridge",
        || [iifname_oifname_in(&WITHIN), iifname_in(&BRIDGES), accept()].concat()),
    rule("forwarded", "what belongs to no connection is not masqueraded, so it stays in",
        || [iifname_in(&BRIDGES), ct_state_none(), drop()].concat()),
    rule("forwarded", "containers get out, with an address of their own",
        || [iifname_in(&BRIDGES), oifname_not_in(&BRIDGES), saddr_in(&SUBNETS), accept()].concat()),
    rule("forwarded", "answers come in",
        || [oifname_in(&BRIDGES), ct_direction_reply(), accept()].concat()),
    rule("forwarded", "so does what is for a published port, see the chain published",
        || [oifname_in(&BRIDGES), ct_status_dnat(), accept()].concat()),
    rule("forwarded", "nothing else comes in",
        || [oifname_in(&BRIDGES), drop()].concat()),
    rule("forwarded", "nothing else gets out",
        || [iifname_in(&BRIDGES), drop()].concat()),
    rule("forwarded", FOR_CONTAINERS_ONLY,
        || [is_ipv4(), jump(NO_ROUTER)].concat()),

    rule(NO_ROUTER, "answers",
        || [ct_direction_reply(), accept()].concat()),
    rule(NO_ROUTER, "what others forward to a port",
        || [ct_status_dnat(), accept()].concat()),
    rule(NO_ROUTER, "frames that a bridge forwards (bridge-nf-call-iptables)",
        || [iifname_oifname_in(&WITHIN), accept()].concat()),
    rule(NO_ROUTER, "a bridge that came later is whoever's who wants it routed",
        || [iifkind_bridge(), iifname_not_in(&LAN), accept()].concat()),
    rule(NO_ROUTER, "for others the host is no router, as before",
        drop),

    rule("leaving", "of connections by way of a published port",
        || [ct_status_dnat(), ct_reply_saddr_in(&SUBNETS), jump("published")].concat()),
    rule("published", "it still leads to where the connection goes",
        || [l4proto_tcp(), ct_ports_in(&LIVE), accept()].concat()),
    rule("published", "it still leads to where the packets go",
        || [l4proto_udp(), ct_ports_in(&LIVE), accept()].concat()),
    rule("published", "so does this, of one address",
        || [l4proto_tcp(), ct_address_ports_in(&LIVE_AT), accept()].concat()),
    rule("published", "and this",
        || [l4proto_udp(), ct_address_ports_in(&LIVE_AT), accept()].concat()),
    rule("published", "errors about it, while its container has a port published",
        || [ct_state_related(), ct_reply_saddr_in(&PUBLISHING), accept()].concat()),
    rule("published", "its container is gone, and nobody else gets what was meant for it",
        drop),

    rule("behind_host", "containers have the host's address outside",
        || [iifname_in(&BRIDGES), oifname_not_in(&BRIDGES), l4proto_tcp(),
            masquerade_to(CLIENT_PORTS)].concat()),
    rule("behind_host", "likewise, and no port that may be served",
        || [iifname_in(&BRIDGES), oifname_not_in(&BRIDGES), l4proto_udp(),
            masquerade_to(CLIENT_PORTS)].concat()),
    rule("behind_host", "what has no ports as well",
        || [iifname_in(&BRIDGES), oifname_not_in(&BRIDGES), masquerade()].concat()),
    rule("behind_host", "from container to published port: answers have to come back this way",
        || [oifname_in(&BRIDGES), daddr_in(&PUBLISHING), ct_status_dnat(), saddr_in(&SUBNETS),
            masquerade()].concat()),
    rule("behind_host", "from 127.0.0.1 to published port, likewise",
        || [oifname_in(&BRIDGES), saddr_loopback(), masquerade()].concat()),
];

const fn rule(chain: &'static str, comment: &'static str, phrases: fn() -> Phrase) -> Rule {
    Rule { chain, comment, phrases }
}

/// The rules that there are to be. `no_router`: the host was none before this program switched
/// forwarding on, so it is to be none for others.
fn rules(no_router: bool) -> impl Iterator<Item = &'static Rule> {
    let of_a_router = |rule: &&Rule| rule.chain != NO_ROUTER && rule.comment != FOR_CONTAINERS_ONLY;
    RULES.iter().filter(move |rule| no_router || of_a_router(rule))
}

/// The firewall as it is found, before anything is changed.
#[derive(Debug)]
pub struct Found {
    forwarding: Forwarding,
    stands: bool,
}

/// Looks at forwarding and the firewall, if there is to be one. Nothing is changed.
///
/// # Errors
/// [`Failed::Firewall`], [`Failed::File`].
pub fn find(host: &mut Host, grant: &Grant) -> Result<Option<Found>> {
    if !grant.nat {
        return Ok(None);
    }
    let forwarding = Forwarding::read()?;
    Ok(Some(Found { forwarding, stands: stands(host, grant, forwarding)? }))
}

/// Brings the firewall and forwarding about, where they are not as they should be.
///
/// # Errors
/// [`Failed::Firewall`], and [`Failed::Sysctl`] when forwarding cannot be switched on.
pub fn complete(host: &mut Host, grant: &Grant, found: Option<Found>) -> Result<()> {
    let Some(Found { forwarding, stands }) = found else { return Ok(()) };
    if !stands {
        build(host, grant, forwarding)?;
    }
    // After the rule that keeps it to containers.
    forwarding.switch_on(host)
}

/// Brings the firewall and forwarding about, or makes sure that they are there.
///
/// # Errors
/// Those of [`find`] and [`complete`].
pub fn ensure(host: &mut Host, grant: &Grant) -> Result<()> {
    let found = find(host, grant)?;
    complete(host, grant, found)
}

/// Mends the firewall, if there is a bridge of containers and the host forwards.
///
/// # Errors
/// As [`ensure`].
pub fn mend(host: &mut Host, grant: &Grant) -> Result<()> {
    let needed = Forwarding::read()? != Forwarding::Off;
    match needed && host.link(By::Name(&grant.bridge))?.is_some() {
        true => ensure(host, grant),
        false => Ok(()),
    }
}

/// What there is to say of the firewall before anything is changed.
///
/// # Errors
/// [`Failed::Firewall`], [`Failed::File`].
pub fn look(host: &mut Host, grant: &Grant) -> Result<&'static str> {
    let forwarding = Forwarding::read()?;
    let stands = stands(host, grant, forwarding)?;
    Ok(match (stands, forwarding) {
        (_, Forwarding::Off) => "ip_forward is 0; the first attach makes it 2, for containers only",
        (false, _) => "table inet netsetgo is missing or incomplete; the next attach makes it",
        (true, Forwarding::Ours) => "table inet netsetgo is complete, forwarding is for containers",
        (true, Forwarding::Others) => "table inet netsetgo is complete, the host is a router",
    })
}

/// Whether the table is as it should be. What a rule refers to, chain or set, cannot be deleted
/// while the rule is there; elements can.
fn stands(host: &mut Host, grant: &Grant, forwarding: Forwarding) -> Result<bool> {
    host.ruleset(|ruleset| {
        if !ruleset.has_table()? {
            return Ok(false);
        }
        let expected = rules(forwarding.for_containers_only()).map(|rule| rule.mark(VERSION));
        if !ruleset.rules()?.into_iter().eq(expected) {
            return Ok(false);
        }
        for (set, element) in [(&BRIDGES, padded(&grant.bridge)), (&WITHIN, pair(&grant.bridge))] {
            if ruleset.element(set, element)?.is_none() {
                return Ok(false);
            }
        }
        Ok(covers(&ruleset.elements(&SUBNETS)?, grant.address))
    })?
    .map_err(failed("looking it over"))
}

/// Whether a set of ranges has this subnet as one.
fn covers(ranges: &[Element], subnet: Cidr) -> bool {
    let own = range(subnet);
    let within = |key: &[u8]| {
        let ip = key.first_chunk().copied().map(Ipv4Addr::from);
        ip.is_some_and(|ip| ip != subnet.network() && subnet.contains(ip))
    };
    own.iter().all(|element| ranges.contains(element))
        && !ranges.iter().any(|element| within(&element.key))
}

/// Makes the table, or what is missing of it. Published ports stay where they still are.
fn build(host: &mut Host, grant: &Grant, forwarding: Forwarding) -> Result<()> {
    let lan = match forwarding.for_containers_only() {
        true => host.bridges()?,
        false => Vec::new(),
    };
    let lan: Vec<_> = lan.iter().filter(|name| **name != grant.bridge).collect();
    let subnets = subnets(host, grant)?;
    let batch = |from_scratch: bool| {
        let mut batch = Batch::new(TABLE);
        batch.add_table(COMMENT);
        if from_scratch {
            batch.delete_table();
            batch.add_table(COMMENT);
        }
        SETS.iter().for_each(|set| batch.add_set(set));
        CHAINS.iter().for_each(|chain| batch.add_chain(chain));
        batch.flush_rules();
        for rule in rules(forwarding.for_containers_only()) {
            batch.add_rule(rule, VERSION);
        }
        batch.flush(&LAN);
        batch.flush(&SUBNETS);
        batch.add(&BRIDGES, &[Element::key(padded(&grant.bridge))]);
        batch.add(&WITHIN, &[Element::key(pair(&grant.bridge))]);
        for subnet in &subnets {
            batch.add(&SUBNETS, &range(*subnet));
        }
        let names = |name: &&IfName| Element::key(padded(name));
        let pairs = |name: &&IfName| Element::key(pair(name));
        batch.add(&LAN, &lan.iter().map(names).collect::<Vec<_>>());
        batch.add(&WITHIN, &lan.iter().map(pairs).collect::<Vec<_>>());
        batch
    };
    let made = match host.ruleset(|ruleset| ruleset.commit(batch(false), None))? {
        // What is there cannot be made into what it should be: a set or a chain of that name is
        // another one, or the table is dormant.
        Err(error)
            if [Errno::EEXIST, Errno::EBUSY, Errno::EOPNOTSUPP].iter().any(|e| error.is(*e)) =>
        {
            host.ruleset(|ruleset| ruleset.commit(batch(true), None))?
        }
        done => done,
    };
    made.map_err(failed("making it"))
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
pub(super) fn bridges(host: &mut Host) -> Result<Vec<Link>> {
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

/// A subnet as elements: where it begins, and before what it ends.
fn range(subnet: Cidr) -> Vec<Element> {
    let begin = Element::key(subnet.network().octets().to_vec());
    let end = subnet
        .broadcast()
        .to_bits()
        .checked_add(1)
        .map(|beyond| Element { end: true, ..Element::key(beyond.to_be_bytes().to_vec()) });
    [Some(begin), end].into_iter().flatten().collect()
}

/// For `map_err`: a request to nf_tables that failed, and what it was to do.
pub(super) fn failed(what: &'static str) -> impl Fn(crate::netlink::Error) -> crate::error::Error {
    move |error| Failed::Firewall(what, error).into()
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hash, Hasher};

    use super::*;

    #[test]
    fn rules_that_are_changed_are_of_another_version() {
        let mut hasher = DefaultHasher::new();
        for rule in &RULES {
            format!("{} {} {:?}", rule.chain, rule.comment, (rule.phrases)()).hash(&mut hasher);
        }
        // Raise the version, and then write here what the rules are now.
        assert_eq!((VERSION, hasher.finish()), (2, 13_528_591_977_725_877_562));
    }

    #[test]
    fn rules_stand_in_the_order_in_which_the_kernel_lists_them() {
        let position = |rule: &Rule| CHAINS.iter().position(|chain| chain.name == rule.chain);
        assert!(RULES.iter().map(position).is_sorted());
        assert!(RULES.iter().all(|rule| position(rule).is_some()));
    }

    #[test]
    fn no_two_rules_look_the_same() {
        let marks: std::collections::HashSet<_> =
            RULES.iter().map(|rule| rule.mark(VERSION)).collect();
        assert_eq!(marks.len(), RULES.len());
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
        assert!(covers(&ranges(&["10.10.8.1/22"]), subnet));
        assert!(covers(&ranges(&["10.10.12.1/24", "10.10.8.1/22", "10.10.7.1/24"]), subnet));
        for others in
            [&[][..], &["10.10.8.1/24"], &["10.10.0.1/16"], &["10.10.8.1/22", "10.10.9.1/24"]]
        {
            assert!(!covers(&ranges(others), subnet), "{others:?}");
        }
    }
}
