//! The two tables: their chains, and the sets and maps whose elements tell the rules of the network.

use netlink_packet_netfilter::nftables::InetHookNumber::{
    self, Forward, LocalIn, LocalOut, PostRouting, PreRouting,
};

use crate::kernel::nftables::Kind::{Ether, IfIndex, IfName, Ipv4, Port, Protocol, Uid};
use crate::kernel::nftables::{Chain, Kind, NFPROTO_BRIDGE, NFPROTO_INET, Set, Table};

/// The name of both tables.
pub const NAME: &str = "netsetgo";

/// For packets that the host routes, sends or receives.
pub const ROUTED: Table = Table { family: NFPROTO_INET, name: NAME };
/// For frames that arrive at bridge ports.
pub const BRIDGED: Table = Table { family: NFPROTO_BRIDGE, name: NAME };

/// Priorities of base chains (`enum nf_ip_hook_priorities`, `linux/netfilter_ipv4.h`).
const RAW_BEFORE_DEFRAG: i32 = -450;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;
/// After the chains of others that translate destinations (-100 and up): what they translate stays theirs.
const LAST_DSTNAT: i32 = 1000;

/// Priorities in a bridge (`enum nf_br_hook_priorities`, `linux/netfilter_bridge.h`). Both come before
/// the hook that shows bridged frames to the tables for routed packets (`NF_BR_PRI_BRNF`).
const BRIDGE_DSTNAT: i32 = -300;
const BRIDGE_FILTER: i32 = -200;

const fn chain(table: Table<'static>, name: &'static str) -> Chain {
    Chain { table, name, base: None }
}

impl Chain {
    /// It is a base chain: the kernel calls it at this hook, in the order of priorities.
    const fn at(self, kind: &'static str, hook: InetHookNumber, priority: i32) -> Chain {
        Chain { base: Some((kind, hook, priority)), ..self }
    }
}

pub const fn set<'a>(
    table: Table<'a>,
    name: &'a str,
    key: &'a [Kind],
    comment: &'a str,
) -> Set<'a> {
    Set { table, name, comment, key, value: &[], ranges: false, limits: false, by_rules: None }
}

impl Set<'_> {
    /// Its elements are ranges of keys.
    const fn ranges(self) -> Self {
        Set { ranges: true, ..self }
    }

    /// Rules add its elements, so many at most.
    const fn by_rules(self, most: u32) -> Self {
        Set { by_rules: Some(most), ..self }
    }

    /// It is a map to limits.
    const fn of_limits(self) -> Self {
        Set { limits: true, ..self }
    }

    /// It is a map to these values.
    const fn to(self, value: &'static [Kind]) -> Self {
        Set { value, ..self }
    }
}

#[rustfmt::skip]
mod chains {
    use super::*;

    pub const ARRIVING: Chain = chain(ROUTED, "arriving").at("filter", PreRouting, RAW_BEFORE_DEFRAG);
    pub const IN_FRAGMENTS: Chain = chain(ROUTED, "in_fragments");
    pub const TO_HOST: Chain = chain(ROUTED, "to_host").at("nat", PreRouting, LAST_DSTNAT);
    pub const FROM_HOST: Chain = chain(ROUTED, "from_host").at("nat", LocalOut, LAST_DSTNAT);
    pub const TO_CONTAINER: Chain = chain(ROUTED, "to_container");
    pub const FORWARDED: Chain = chain(ROUTED, "forwarded").at("filter", Forward, FILTER);
    pub const COMING_IN: Chain = chain(ROUTED, "coming_in");
    pub const GETTING_OUT: Chain = chain(ROUTED, "getting_out");
    pub const BEGINNING: Chain = chain(ROUTED, "beginning");
    pub const NO_ROUTER: Chain = chain(ROUTED, "no_router");
    pub const LEAVING: Chain = chain(ROUTED, "leaving").at("filter", PostRouting, FILTER);
    pub const PUBLISHED: Chain = chain(ROUTED, "published");
    pub const BEHIND_HOST: Chain = chain(ROUTED, "behind_host").at("nat", PostRouting, SRCNAT);
    pub const FOR_HOST: Chain = chain(ROUTED, "for_host").at("filter", LocalIn, FILTER);
    pub const SENT: Chain = chain(BRIDGED, "sent").at("filter", PreRouting, BRIDGE_DSTNAT);
    pub const SENT_IPV4: Chain = chain(BRIDGED, "sent_ipv4");
    pub const OWN_IPV4: Chain = chain(BRIDGED, "own_ipv4");
    pub const FRAGMENT: Chain = chain(BRIDGED, "fragment");
    pub const SENT_ICMP: Chain = chain(BRIDGED, "sent_icmp");
    pub const ICMP_ERROR: Chain = chain(BRIDGED, "icmp_error");
    pub const SENT_ARP: Chain = chain(BRIDGED, "sent_arp");
    pub const PASSED_ON: Chain = chain(BRIDGED, "passed_on").at("filter", Forward, BRIDGE_FILTER);
}

/// How long the kernel keeps a container's TCP connection that has ended, in seconds by state: TIME_WAIT,
/// CLOSE. No limit counts these, and the kernel's own times are two minutes and ten seconds.
pub const TIMEOUTS: (&str, [(u16, u32); 2]) = ("ended", [(7, 2), (8, 1)]);

#[rustfmt::skip]
mod sets {
    use super::*;

    pub const SETS: [&Set; 17] = [
        &BRIDGES, &WITHIN, &SUBNETS, &OWNERS, &OWNED, &PUBLISHING, &PORTS, &LIVE, &NAME_SERVERS,
        &PROTOCOLS, &CONNECTIONS, &TO_PORT, &TO_HOST_ICMP, &FRAGMENTS, &LEASES, &ADDRESSES, &USERS,
    ];

    pub const BRIDGES: Set = set(ROUTED, "bridges", &[IfName], "the bridges of containers");

    pub const WITHIN: Set = set(ROUTED, "within", &[IfName, IfName],
        "each bridge of containers with itself: frames that it forwards are not routed");

    pub const SUBNETS: Set = set(ROUTED, "subnets", &[Ipv4], "the subnets of containers").ranges();

    /// A run that is about to give an address to a user reads who had it before.
    pub const OWNERS: Set = set(ROUTED, "owners", &[Ipv4],
        "the user who has each address, or had it last").to(&[Uid]);

    /// A rule cannot compare the value that [`OWNERS`] has with another one.
    pub const OWNED: Set = set(ROUTED, "owned", &[Ipv4, Uid], "the same as owners");

    pub const PUBLISHING: Set = set(ROUTED, "publishing", &[Ipv4],
        "containers that publish a port");

    /// The address comes first, since nft can read a mask back only there. An element's comment is the
    /// name of the host end.
    pub const PORTS: Set = set(ROUTED, "ports", &[Ipv4, Protocol, Port],
        "published ports: the host's address (0.0.0.0: every one) and port, and the container's")
        .to(&[Ipv4, Port]);

    /// A connection is translated by [`PORTS`] once, at its first packet. This set decides how long it
    /// lasts.
    pub const LIVE: Set = set(ROUTED, "live", &[Ipv4, Protocol, Port, Ipv4, Port],
        "the same as ports; a connection goes on as long as its element is here");

    pub const NAME_SERVERS: Set = set(ROUTED, "name_servers", &[Protocol, Ipv4, Port],
        "name servers of the policy: some of them may be the host");

    pub const PROTOCOLS: Set = set(ROUTED, "protocols", &[Protocol],
        "the protocols that containers send to other networks");

    /// An element goes when its last connection has gone. There is one for each address.
    pub const CONNECTIONS: Set = set(ROUTED, "connections", &[Ipv4],
        "how many connections each container has").by_rules(1 << 16);

    pub const TO_PORT: Set = set(ROUTED, "to_port", &[Ipv4, Ipv4, Protocol, Port],
        "how many of them go to the same remote port").by_rules(1 << 20);

    pub const TO_HOST_ICMP: Set = set(ROUTED, "to_host_icmp", &[Ipv4, Ipv4],
        "how many of them ping the same host").by_rules(1 << 20);

    pub const FRAGMENTS: Set = set(ROUTED, "fragments", &[Ipv4],
        "the fragments that containers send: each user has a limit").of_limits();

    /// Every lease that is possible. Of the index it has only the part that is the address's: nft shows a
    /// whole index as the name of an interface, and cannot load that once the interface is gone.
    pub const LEASES: Set = set(BRIDGED, "leases", &[IfIndex, Ether, Ipv4],
        "what a container sends from: its bridge port, Ethernet address and IPv4 address");

    pub const ADDRESSES: Set = set(BRIDGED, "addresses", &[Ipv4],
        "the addresses of containers: their subnets without the bridges' own").ranges();

    /// A user's bridge ports by the beginning of their names, as a range, paired with itself.
    pub const USERS: Set = set(BRIDGED, "users", &[IfName, IfName],
        "from a user's containers to containers of the same user").ranges();
}

pub use self::chains::*;
pub use self::sets::*;
