//! What the two tables consist of, as nft lists it: sets, chains and rules, and what of the policy each
//! rule is for.

use std::ops::RangeInclusive;
use std::time::Duration;

use netlink_packet_netfilter::nftables::InetHookNumber;

use crate::kernel::nftables::expression::{
    ETH_P_ARP, ETH_P_IP, Phrase, accept, arp_over_ethernet, bridged_daddr_in, ct_address_ports_in,
    ct_direction_reply, ct_ports_in, ct_reply_saddr_in, ct_state_none, ct_state_related,
    ct_status_dnat, daddr_in, daddr_loopback, dnat_by_address_and_port, dnat_by_port, drop,
    echo_request, ether_saddr_begins, ether_type, fib_daddr_iif_local, fib_daddr_local,
    iif_ether_arp_saddr_in, iif_ether_ip_saddr_in, iif_has, iif_has_not, iif_not_lo,
    iifkind_bridge, iifname_in, iifname_not_in, iifname_oifname_in, iifname_oifname_not_in,
    is_ipv4, jump, l4proto_daddr_dport_in, l4proto_tcp, l4proto_udp, masquerade, masquerade_to,
    oif_has, oifname_in, oifname_not_in, pkttype_host, saddr_in, saddr_loopback, sport,
};
use crate::kernel::nftables::{Chain, Kind, NFPROTO_BRIDGE, NFPROTO_INET, Rule, Set, Table};
use crate::network::lease;
use crate::request::policy::{HostAccess, Isolation};

/// The name of both tables.
pub const NAME: &str = "netsetgo";

/// What the host itself sends, gets and routes.
pub const ROUTED: Table = Table { family: NFPROTO_INET, name: NAME };
/// The frames that arrive at the bridges' ports.
pub const BRIDGED: Table = Table { family: NFPROTO_BRIDGE, name: NAME };

/// The version of the rules below: a rule of another is not taken for one of these. To be raised
/// with every change of them.
pub const VERSION: u8 = 6;

/// The bridges of the containers.
pub const BRIDGES: Set = Set {
    table: ROUTED,
    name: "bridges",
    comment: "the containers' bridges",
    key: &[Kind::IfName],
    ..PLAIN
};

/// The pairs of an interface and itself that frames pass between without being routed.
pub const WITHIN: Set = Set {
    table: ROUTED,
    name: "within",
    comment: "a bridge and itself: what stays within it is not routed",
    key: &[Kind::IfName, Kind::IfName],
    ..PLAIN
};

/// The host's own bridges, if it was no router.
pub const LAN: Set = Set {
    table: ROUTED,
    name: "lan",
    comment: "bridges that were there when netsetgo switched forwarding on",
    key: &[Kind::IfName],
    ..PLAIN
};

pub const SUBNETS: Set = Set {
    table: ROUTED,
    name: "subnets",
    comment: "the containers' subnets",
    key: &[Kind::Ipv4],
    ranges: true,
    ..PLAIN
};

/// The containers whose addresses an element of one of the maps may lead to.
pub const PUBLISHING: Set = Set {
    table: ROUTED,
    name: "publishing",
    comment: "containers that publish a port",
    key: &[Kind::Ipv4],
    lifetime: UNTIL_TOLD,
    ..PLAIN
};

/// Ports that are published on every address of the host, and where they lead to.
pub const PORTS: Set = Set {
    table: ROUTED,
    name: "ports",
    comment: "published on every address of the host",
    key: &[Kind::Protocol, Kind::Port],
    value: &[Kind::Ipv4, Kind::Port],
    lifetime: UNTIL_TOLD,
    ..PLAIN
};

/// Ports that are published on one address of the host.
pub const PORTS_AT: Set = Set {
    table: ROUTED,
    name: "ports_at",
    comment: "published on one address of the host",
    key: &[Kind::Protocol, Kind::Ipv4, Kind::Port],
    value: &[Kind::Ipv4, Kind::Port],
    lifetime: UNTIL_TOLD,
    ..PLAIN
};

/// The same as the two maps, by all that a connection knows of it: as long as one is in here, its
/// connections go on.
pub const LIVE: Set = Set {
    table: ROUTED,
    name: "live",
    comment: "the connections that the map ports stands for",
    key: &[Kind::Protocol, Kind::Port, Kind::Ipv4, Kind::Port],
    lifetime: UNTIL_TOLD,
    ..PLAIN
};

/// Likewise for [`PORTS_AT`].
pub const LIVE_AT: Set = Set {
    table: ROUTED,
    name: "live_at",
    comment: "the connections that the map ports_at stands for",
    key: &[Kind::Protocol, Kind::Ipv4, Kind::Port, Kind::Ipv4, Kind::Port],
    lifetime: UNTIL_TOLD,
    ..PLAIN
};

/// Name servers that the policy names: some of them may be the host.
pub const NAME_SERVERS: Set = Set {
    table: ROUTED,
    name: "name_servers",
    comment: "name servers that the policy names",
    key: &[Kind::Protocol, Kind::Ipv4, Kind::Port],
    ..PLAIN
};

/// Every lease that there can be: what says one of the three says the other two. Of the index there is
/// the part that is the address's: nft would show the whole one as the name of whoever has it at the
/// moment, and not load that again when he is gone.
pub const LEASES: Set = Set {
    table: BRIDGED,
    name: "leases",
    comment: "what a container sends from: its port, and the addresses that belong to that",
    key: &[Kind::IfIndex, Kind::Ether, Kind::Ipv4],
    ..PLAIN
};

/// The addresses that leases are of.
pub const ADDRESSES: Set = Set {
    table: BRIDGED,
    name: "addresses",
    comment: "the containers' addresses: their subnets without the bridges' own",
    key: &[Kind::Ipv4],
    ranges: true,
    ..PLAIN
};

/// The ports of each user, by how their names begin, paired with themselves.
pub const USERS: Set = Set {
    table: BRIDGED,
    name: "users",
    comment: "from one user's containers to the same user's",
    key: &[Kind::IfName, Kind::IfName],
    ranges: true,
    ..PLAIN
};

/// Under what generation of the ruleset all of this was seen to be whole: see [`super::seal`].
pub const SEEN: Set = Set {
    table: ROUTED,
    name: "seen",
    comment: "when all this was seen to be whole: the ruleset's generation, and of what boot and policy",
    key: &[Kind::Mark, Kind::Mark, Kind::Mark],
    lifetime: Some(Duration::from_secs(300)),
    ..PLAIN
};

/// For sets that elements are taken out of while others go on: see `publish/removal.rs`.
const UNTIL_TOLD: Option<Duration> = Some(Duration::ZERO);

/// What most sets are like.
const PLAIN: Set = Set {
    table: ROUTED,
    name: "",
    comment: "",
    key: &[],
    value: &[],
    ranges: false,
    lifetime: None,
};

pub const SETS: [&Set; 14] = [
    &BRIDGES,
    &WITHIN,
    &LAN,
    &SUBNETS,
    &PUBLISHING,
    &PORTS,
    &PORTS_AT,
    &LIVE,
    &LIVE_AT,
    &NAME_SERVERS,
    &LEASES,
    &ADDRESSES,
    &USERS,
    &SEEN,
];

/// Priorities of base chains (`enum nf_ip_hook_priorities`, `linux/netfilter_ipv4.h`).
const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

/// Likewise of a bridge (`enum nf_br_hook_priorities`, `linux/netfilter_bridge.h`): both before
/// frames are shown to the firewall of what is routed (`NF_BR_PRI_BRNF`, `bridge-nf-call-iptables`).
const BRIDGE_DSTNAT: i32 = -300;
const BRIDGE_FILTER: i32 = -200;

const ARRIVING: Chain = base(ROUTED, "arriving", "filter", InetHookNumber::PreRouting, RAW);
const TO_HOST: Chain = base(ROUTED, "to_host", "nat", InetHookNumber::PreRouting, DSTNAT);
const FROM_HOST: Chain = base(ROUTED, "from_host", "nat", InetHookNumber::LocalOut, DSTNAT);
const TO_CONTAINER: Chain = chain(ROUTED, "to_container");
const FORWARDED: Chain = base(ROUTED, "forwarded", "filter", InetHookNumber::Forward, FILTER);
const COMING_IN: Chain = chain(ROUTED, "coming_in");
const GETTING_OUT: Chain = chain(ROUTED, "getting_out");
/// Keeps the host from routing for others than containers.
const NO_ROUTER: Chain = chain(ROUTED, "no_router");
const LEAVING: Chain = base(ROUTED, "leaving", "filter", InetHookNumber::PostRouting, FILTER);
const PUBLISHED: Chain = chain(ROUTED, "published");
pub const BEHIND_HOST: Chain =
    base(ROUTED, "behind_host", "nat", InetHookNumber::PostRouting, SRCNAT);
const FOR_HOST: Chain = base(ROUTED, "for_host", "filter", InetHookNumber::LocalIn, FILTER);
const SENT: Chain = base(BRIDGED, "sent", "filter", InetHookNumber::PreRouting, BRIDGE_DSTNAT);
const SENT_IPV4: Chain = chain(BRIDGED, "sent_ipv4");
const SENT_ARP: Chain = chain(BRIDGED, "sent_arp");
const PASSED_ON: Chain =
    base(BRIDGED, "passed_on", "filter", InetHookNumber::Forward, BRIDGE_FILTER);

pub const CHAINS: [&Chain; 16] = [
    &ARRIVING,
    &TO_HOST,
    &FROM_HOST,
    &TO_CONTAINER,
    &FORWARDED,
    &COMING_IN,
    &GETTING_OUT,
    &NO_ROUTER,
    &LEAVING,
    &PUBLISHED,
    &BEHIND_HOST,
    &FOR_HOST,
    &SENT,
    &SENT_IPV4,
    &SENT_ARP,
    &PASSED_ON,
];

const fn chain(table: Table, name: &'static str) -> Chain {
    Chain { table, name, base: None }
}

const fn base(
    table: Table,
    name: &'static str,
    kind: &'static str,
    hook: InetHookNumber,
    priority: i32,
) -> Chain {
    Chain { table, name, base: Some((kind, hook, priority)) }
}

/// The ports of the host's that containers send from. What a remote host sends to the port that a
/// flow comes from is an answer, and goes to who began the flow. So a container that could choose the
/// port would get what a remote client sends to another's published port, or to a program of the
/// host's. These are the lower ones of those for clients (`ip_local_port_range`), below those that root
/// gets a free one of.
const CLIENT_PORTS: RangeInclusive<u16> = 32768..=49151;

/// The port that DHCP servers send from (RFC 2131).
const DHCP_SERVER: u16 = 67;

/// What rules are chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Whether containers get a way out, and ports are published.
    pub nat: bool,
    /// Whether the host was no router before this program switched forwarding on, so that it is to be
    /// none for others.
    pub no_router: bool,
    /// Who reaches whom.
    pub isolation: Isolation,
    /// What of the host they reach.
    pub host_access: HostAccess,
}

/// The rules of `setup`. Those of a chain stand together, and in their order.
pub fn rules(setup: Setup) -> impl Iterator<Item = &'static Rule> {
    PARTS.iter().filter(move |(wanted, _)| wanted(setup)).flat_map(|(_, rules)| *rules)
}

/// The rules of every setup.
#[cfg(test)]
pub fn all_rules() -> impl Iterator<Item = &'static Rule> {
    PARTS.iter().flat_map(|(_, rules)| *rules)
}

/// Whether rules are wanted, and which.
type Part = (fn(Setup) -> bool, &'static [Rule]);

const PARTS: [Part; 9] = [
    (|_| true, &NOT_PAST_THE_BRIDGE),
    (|setup| setup.nat, &WAY_OUT),
    (|setup| setup.nat && setup.no_router, &NOT_FOR_OTHERS),
    (|setup| setup.nat, &BACK_AND_BEHIND),
    (|setup| setup.host_access == HostAccess::Published, &LITTLE_OF_THE_HOST),
    (|setup| setup.isolation != Isolation::None, &BY_PUBLISHED_PORTS_ONLY),
    (|_| true, &NOTHING_FORGED),
    (|setup| setup.isolation == Isolation::User, &USERS_APART),
    (|setup| setup.isolation == Isolation::Container, &ALL_APART),
];

#[rustfmt::skip] // A rule in two lines: it is read as nft lists it.
const NOT_PAST_THE_BRIDGE: [Rule; 1] = [
    rule(&ARRIVING, "from a container, past its bridge, or without one: nothing has seen what it sends",
        || [iif_has(lease::MARK), drop()].concat()),
];

#[rustfmt::skip]
const WAY_OUT: [Rule; 15] = [
    rule(&ARRIVING, "no wire reaches 127.0.0.1, whatever route_localnet says",
        || [iif_not_lo(), daddr_loopback(), drop()].concat()),
    rule(&ARRIVING, "nor speaks for it",
        || [iif_not_lo(), saddr_loopback(), drop()].concat()),

    rule(&TO_HOST, "published ports, from outside and from containers",
        || [fib_daddr_local(), jump(&TO_CONTAINER)].concat()),
    rule(&FROM_HOST, "published ports, from the host itself",
        || [fib_daddr_local(), jump(&TO_CONTAINER)].concat()),
    rule(&TO_CONTAINER, "a port of one address",
        || dnat_by_address_and_port(&PORTS_AT)),
    rule(&TO_CONTAINER, "a port of every address",
        || [is_ipv4(), dnat_by_port(&PORTS)].concat()),

    // Each packet of every connection comes by here: what most of them are is asked first.
    rule(&FORWARDED, "to containers",
        || [oifname_in(&BRIDGES), jump(&COMING_IN)].concat()),
    rule(&FORWARDED, "from containers, to anywhere else",
        || [iifname_in(&BRIDGES), jump(&GETTING_OUT)].concat()),
    rule(&COMING_IN, "answers",
        || [ct_direction_reply(), accept()].concat()),
    rule(&COMING_IN, "what is for a published port, see the chain published",
        || [ct_status_dnat(), accept()].concat()),
    rule(&COMING_IN, "from container to container of one bridge",
        || [iifname_oifname_in(&WITHIN), accept()].concat()),
    rule(&COMING_IN, "nothing else comes in",
        drop),
    rule(&GETTING_OUT, "what belongs to no connection is not masqueraded, so it stays in",
        || [ct_state_none(), drop()].concat()),
    rule(&GETTING_OUT, "with an address of their own",
        || [saddr_in(&SUBNETS), accept()].concat()),
    rule(&GETTING_OUT, "nothing else gets out",
        drop),
];

#[rustfmt::skip]
const NOT_FOR_OTHERS: [Rule; 6] = [
    rule(&FORWARDED, "netsetgo switched forwarding on (ip_forward is 2), for containers only",
        || [is_ipv4(), jump(&NO_ROUTER)].concat()),

    rule(&NO_ROUTER, "answers",
        || [ct_direction_reply(), accept()].concat()),
    rule(&NO_ROUTER, "what others forward to a port",
        || [ct_status_dnat(), accept()].concat()),
    rule(&NO_ROUTER, "frames that a bridge forwards (bridge-nf-call-iptables)",
        || [iifname_oifname_in(&WITHIN), accept()].concat()),
    rule(&NO_ROUTER, "a bridge that came later is whoever's who wants it routed",
        || [iifkind_bridge(), iifname_not_in(&LAN), accept()].concat()),
    rule(&NO_ROUTER, "for others the host is no router, as before",
        drop),
];

#[rustfmt::skip]
const BACK_AND_BEHIND: [Rule; 12] = [
    rule(&LEAVING, "of connections by way of a published port",
        || [ct_status_dnat(), ct_reply_saddr_in(&SUBNETS), jump(&PUBLISHED)].concat()),
    rule(&PUBLISHED, "it still leads to where the connection goes",
        || [l4proto_tcp(), ct_ports_in(&LIVE), accept()].concat()),
    rule(&PUBLISHED, "it still leads to where the packets go",
        || [l4proto_udp(), ct_ports_in(&LIVE), accept()].concat()),
    rule(&PUBLISHED, "so does this, of one address",
        || [l4proto_tcp(), ct_address_ports_in(&LIVE_AT), accept()].concat()),
    rule(&PUBLISHED, "and this",
        || [l4proto_udp(), ct_address_ports_in(&LIVE_AT), accept()].concat()),
    rule(&PUBLISHED, "errors about it, while its container has a port published",
        || [ct_state_related(), ct_reply_saddr_in(&PUBLISHING), accept()].concat()),
    rule(&PUBLISHED, "its container is gone, and nobody else gets what was meant for it",
        drop),

    rule(&BEHIND_HOST, "containers have the host's address outside",
        || [iifname_in(&BRIDGES), oifname_not_in(&BRIDGES), l4proto_tcp(),
            masquerade_to(CLIENT_PORTS)].concat()),
    rule(&BEHIND_HOST, "likewise, and no port that may be served",
        || [iifname_in(&BRIDGES), oifname_not_in(&BRIDGES), l4proto_udp(),
            masquerade_to(CLIENT_PORTS)].concat()),
    rule(&BEHIND_HOST, "what has no ports as well",
        || [iifname_in(&BRIDGES), oifname_not_in(&BRIDGES), masquerade()].concat()),
    rule(&BEHIND_HOST, "from container to published port: answers have to come back this way",
        || [oifname_in(&BRIDGES), daddr_in(&PUBLISHING), ct_status_dnat(), saddr_in(&SUBNETS),
            masquerade()].concat()),
    rule(&BEHIND_HOST, "from 127.0.0.1 to published port, likewise",
        || [oifname_in(&BRIDGES), saddr_loopback(), masquerade()].concat()),
];

/// How the Ethernet addresses of containers begin, and of no other host's at a bridge of the
/// administrator's own.
const OF_CONTAINERS: u16 = 0x024e;

#[rustfmt::skip]
const LITTLE_OF_THE_HOST: [Rule; 4] = [
    rule(&FOR_HOST, "answers to what the host itself began",
        || [iifname_in(&BRIDGES), ct_direction_reply(), accept()].concat()),
    rule(&FOR_HOST, "ping, of the bridge's own address",
        || [iifname_in(&BRIDGES), echo_request(), fib_daddr_iif_local(), accept()].concat()),
    rule(&FOR_HOST, "name service of the host's, if the policy names it",
        || [iifname_in(&BRIDGES), l4proto_daddr_dport_in(&NAME_SERVERS), accept()].concat()),
    rule(&FOR_HOST, "nothing else of the host is for containers (host_access)",
        || [iifname_in(&BRIDGES), ether_saddr_begins(OF_CONTAINERS), drop()].concat()),
];

#[rustfmt::skip]
const BY_PUBLISHED_PORTS_ONLY: [Rule; 2] = [
    rule(&SENT_IPV4, "to another container by way of the host, and so round what follows",
        || [pkttype_host(), bridged_daddr_in(&ADDRESSES), drop()].concat()),
    rule(&PASSED_ON, "sent to the host, which led it to a published port (bridge-nf-call-iptables)",
        || [pkttype_host(), accept()].concat()),
];

#[rustfmt::skip]
const NOTHING_FORGED: [Rule; 9] = [
    rule(&SENT, "not from a container's port",
        || [iif_has_not(lease::MARK), accept()].concat()),
    rule(&SENT, "as the frame itself says: a tag before it is something else",
        || [ether_type(ETH_P_IP), jump(&SENT_IPV4)].concat()),
    rule(&SENT, "likewise",
        || [ether_type(ETH_P_ARP), jump(&SENT_ARP)].concat()),
    rule(&SENT, "IPv6, tagged frames, STP and whatever else there is",
        drop),
    rule(&SENT_IPV4, "DHCP servers",
        || [sport(DHCP_SERVER), drop()].concat()),
    rule(&SENT_IPV4, "its own addresses, by its own port",
        || [iif_ether_ip_saddr_in(lease::ADDRESS_BITS, &LEASES), accept()].concat()),
    rule(&SENT_IPV4, "an address that it has not leased",
        drop),
    rule(&SENT_ARP, "its own addresses, in the frame and in what it says",
        || [arp_over_ethernet(), iif_ether_arp_saddr_in(lease::ADDRESS_BITS, &LEASES), accept()].concat()),
    rule(&SENT_ARP, "somebody else's, or nobody's",
        drop),
];

#[rustfmt::skip]
const USERS_APART: [Rule; 1] = [
    rule(&PASSED_ON, "from one user's container to another's (isolation)",
        || [iif_has(lease::MARK), oif_has(lease::MARK), iifname_oifname_not_in(&USERS),
            drop()].concat()),
];

#[rustfmt::skip]
const ALL_APART: [Rule; 1] = [
    rule(&PASSED_ON, "from container to container (isolation)",
        || [iif_has(lease::MARK), oif_has(lease::MARK), drop()].concat()),
];

const fn rule(chain: &'static Chain, comment: &'static str, phrases: fn() -> Phrase) -> Rule {
    Rule { chain, comment, phrases }
}
