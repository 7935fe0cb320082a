//! The two tables: their chains, and the sets and maps whose elements tell the rules of the network.

use netlink_packet_netfilter::nftables::InetHookNumber;

use crate::kernel::nftables::{Chain, Kind, NFPROTO_BRIDGE, NFPROTO_INET, Set, Table};

/// The name of both tables.
pub const NAME: &str = "netsetgo";

/// For packets that the host routes, sends or receives.
pub const ROUTED: Table<'static> = Table { family: NFPROTO_INET, name: NAME };
/// For frames that arrive at bridge ports.
pub const BRIDGED: Table<'static> = Table { family: NFPROTO_BRIDGE, name: NAME };

/// Priorities of base chains (`enum nf_ip_hook_priorities`, `linux/netfilter_ipv4.h`).
const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

/// Priorities in a bridge (`enum nf_br_hook_priorities`, `linux/netfilter_bridge.h`). Both come before
/// the hook that shows bridged frames to the tables for routed packets (`NF_BR_PRI_BRNF`).
const BRIDGE_DSTNAT: i32 = -300;
const BRIDGE_FILTER: i32 = -200;

pub const ARRIVING: Chain = base(ROUTED, "arriving", "filter", InetHookNumber::PreRouting, RAW);
pub const TO_HOST: Chain = base(ROUTED, "to_host", "nat", InetHookNumber::PreRouting, DSTNAT);
pub const FROM_HOST: Chain = base(ROUTED, "from_host", "nat", InetHookNumber::LocalOut, DSTNAT);
pub const TO_CONTAINER: Chain = chain(ROUTED, "to_container");
pub const FORWARDED: Chain = base(ROUTED, "forwarded", "filter", InetHookNumber::Forward, FILTER);
pub const COMING_IN: Chain = chain(ROUTED, "coming_in");
pub const GETTING_OUT: Chain = chain(ROUTED, "getting_out");
pub const NO_ROUTER: Chain = chain(ROUTED, "no_router");
pub const LEAVING: Chain = base(ROUTED, "leaving", "filter", InetHookNumber::PostRouting, FILTER);
pub const PUBLISHED: Chain = chain(ROUTED, "published");
pub const BEHIND_HOST: Chain =
    base(ROUTED, "behind_host", "nat", InetHookNumber::PostRouting, SRCNAT);
pub const FOR_HOST: Chain = base(ROUTED, "for_host", "filter", InetHookNumber::LocalIn, FILTER);
pub const SENT: Chain = base(BRIDGED, "sent", "filter", InetHookNumber::PreRouting, BRIDGE_DSTNAT);
pub const SENT_IPV4: Chain = chain(BRIDGED, "sent_ipv4");
pub const SENT_ARP: Chain = chain(BRIDGED, "sent_arp");
pub const PASSED_ON: Chain =
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

const fn chain(table: Table<'static>, name: &'static str) -> Chain {
    Chain { table, name, base: None }
}

const fn base(
    table: Table<'static>,
    name: &'static str,
    kind: &'static str,
    hook: InetHookNumber,
    priority: i32,
) -> Chain {
    Chain { table, name, base: Some((kind, hook, priority)) }
}

pub const SETS: [&Set; 11] = [
    &BRIDGES,
    &WITHIN,
    &SUBNETS,
    &OWNERS,
    &PUBLISHING,
    &PORTS,
    &LIVE,
    &NAME_SERVERS,
    &LEASES,
    &ADDRESSES,
    &USERS,
];

/// What most sets are like.
const PLAIN: Set =
    Set { table: ROUTED, name: "", comment: "", key: &[], value: &[], ranges: false };

pub const BRIDGES: Set =
    Set { name: "bridges", comment: "the bridges of containers", key: &[Kind::IfName], ..PLAIN };

pub const WITHIN: Set = Set {
    name: "within",
    comment: "each bridge of containers with itself: frames that it forwards are not routed",
    key: &[Kind::IfName, Kind::IfName],
    ..PLAIN
};

pub const SUBNETS: Set = Set {
    name: "subnets",
    comment: "the subnets of containers",
    key: &[Kind::Ipv4],
    ranges: true,
    ..PLAIN
};

/// No rule reads it. A run that is about to give an address to a user reads who had it before.
pub const OWNERS: Set = Set {
    name: "owners",
    comment: "the uid of the user who had each address last",
    key: &[Kind::Ipv4],
    value: &[Kind::Mark],
    ..PLAIN
};

pub const PUBLISHING: Set = Set {
    name: "publishing",
    comment: "containers that publish a port",
    key: &[Kind::Ipv4],
    ..PLAIN
};

/// The address comes first, since nft can read a mask back only there. The name of the host end is the
/// element's comment.
pub const PORTS: Set = Set {
    name: "ports",
    comment: "published ports: the host's address (0.0.0.0: every one) and port, and the container's",
    key: &[Kind::Ipv4, Kind::Protocol, Kind::Port],
    value: &[Kind::Ipv4, Kind::Port],
    ..PLAIN
};

/// A connection is translated by [`PORTS`] once, at its first packet. This set decides how long it lasts.
pub const LIVE: Set = Set {
    name: "live",
    comment: "the same as ports; a connection goes on as long as its element is here",
    key: &[Kind::Ipv4, Kind::Protocol, Kind::Port, Kind::Ipv4, Kind::Port],
    ..PLAIN
};

pub const NAME_SERVERS: Set = Set {
    name: "name_servers",
    comment: "name servers of the policy: some of them may be the host",
    key: &[Kind::Protocol, Kind::Ipv4, Kind::Port],
    ..PLAIN
};

/// Every lease that is possible. Of the index it has only the part that is the address's: nft shows a
/// whole index as the name of an interface, and cannot load that once the interface is gone.
pub const LEASES: Set = Set {
    table: BRIDGED,
    name: "leases",
    comment: "what a container sends from: its bridge port, Ethernet address and IPv4 address",
    key: &[Kind::IfIndex, Kind::Ether, Kind::Ipv4],
    ..PLAIN
};

pub const ADDRESSES: Set = Set {
    table: BRIDGED,
    name: "addresses",
    comment: "the addresses of containers: their subnets without the bridges' own",
    key: &[Kind::Ipv4],
    ranges: true,
    ..PLAIN
};

/// A user's bridge ports by the beginning of their names, as a range, paired with itself.
pub const USERS: Set = Set {
    table: BRIDGED,
    name: "users",
    comment: "from a user's containers to containers of the same user",
    key: &[Kind::IfName, Kind::IfName],
    ranges: true,
    ..PLAIN
};
