//! The rules for what the host routes, sends and receives, as nft lists them.

use std::ops::RangeInclusive;

use nix::libc::RTN_LOCAL;

use super::bridged::{ECHO_REQUEST, ICMP, IS_FRAGMENT};
use super::elements;
use super::rules::{Rules, host_end, rule};
use super::tables::*;
use crate::kernel::nftables::NFPROTO_IPV4;
use crate::kernel::nftables::expression::*;
use crate::request::ports::Protocol;

/// The host's ports that containers send from. A remote host sends its answers there, and the kernel
/// hands them to the container that began the flow. A container that could choose any port would so
/// receive what remote clients send to a published port, or to a program of the host. At these ports it
/// still can (docs/security.md). They are the ports that programs in a container send from
/// (`ip_local_port_range`), so they mostly stay as they are.
const CLIENT_PORTS: RangeInclusive<u16> = 32768..=60999;

/// Protocols with ports that NAT knows (RFC 9260, RFC 3828, RFC 4340).
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;
const DCCP: u8 = 33;

/// `IPS_DST_NAT` and `IPS_CONFIRMED` (`linux/netfilter/nf_conntrack_common.h`). A connection is confirmed
/// when its first packet has passed all rules.
const DNAT: u32 = 0x20;
const CONFIRMED: u32 = 0x8;
/// `NF_CT_STATE_BIT` of `IP_CT_RELATED` and `IP_CT_NEW` (same file).
const RELATED: u32 = 0x4;
const NEW: u32 = 0x8;
/// `IP_CT_DIR_ORIGINAL`, `IP_CT_DIR_REPLY` (`linux/netfilter/nf_conntrack_tuple_common.h`).
const ORIGINAL: u8 = 0;
const REPLY: u8 = 1;

/// How the Ethernet addresses of containers begin ([`crate::request::address::Mac`]).
const CONTAINER_MAC: [u8; 2] = [0x02, 0x4e];

const LOOPBACK_NET: u8 = 127;
const LOOPBACK_INDEX: u32 = 1;

/// A published port of one address, and of every address.
const AT_ADDRESS: [Field; 3] = [DADDR, L4PROTO, DPORT];
const AT_EVERY_ADDRESS: [Field; 3] = [DADDR.bits(0), L4PROTO, DPORT];

/// The connection of a published port of one address, and of every address.
const LIVE_AT_ADDRESS: [Field; 5] =
    [CT_ORIGINAL_DADDR, CT_PROTOCOL, CT_ORIGINAL_DPORT, CT_REPLY_SADDR, CT_REPLY_SPORT];
const LIVE_AT_EVERY_ADDRESS: [Field; 5] =
    [CT_ORIGINAL_DADDR.bits(0), CT_PROTOCOL, CT_ORIGINAL_DPORT, CT_REPLY_SADDR, CT_REPLY_SPORT];

fn ipv4() -> Statement {
    is(NFPROTO, &[NFPROTO_IPV4])
}

fn protocol(protocol: Protocol) -> Statement {
    is(L4PROTO, &[protocol.number()])
}

/// A destination that is an address of the host's.
fn local(kind: Field) -> Statement {
    is(kind, &u32::from(RTN_LOCAL).to_ne_bytes())
}

fn loopback(address_prefix: Field) -> Statement {
    [ipv4(), is(address_prefix, &[LOOPBACK_NET])].concat()
}

fn not_from_lo() -> Statement {
    is_not(IIF, &LOOPBACK_INDEX.to_ne_bytes())
}

/// The first packet of a connection from a container.
fn from_container() -> Statement {
    [none_of(CT_STATUS, CONFIRMED), within(&[IIFNAME], &BRIDGES)].concat()
}

/// From a container to another network.
fn to_elsewhere() -> Statement {
    [within(&[IIFNAME], &BRIDGES), not_within(&[OIFNAME], &BRIDGES)].concat()
}

/// Containers have the host's address on other networks, and one of its ports that are for clients.
fn behind_host(number: u8) -> Statement {
    [to_elsewhere(), is(L4PROTO, &[number]), masquerade_to(CLIENT_PORTS)].concat()
}

#[rustfmt::skip] // A rule in two lines: it is read as nft lists it.
pub const NOT_PAST_THE_BRIDGE: [Rules; 1] = [
    rule(&ARRIVING, "routed from a bridge port itself, as its bridge is gone or the frame went past it",
        |_| [host_end(IIF), drop()].concat()),
];

#[rustfmt::skip]
pub const FORWARDING: [Rules; 17] = [
    rule(&ARRIVING, "127.0.0.1 is reached from the host alone, whatever route_localnet says",
        |_| [not_from_lo(), loopback(DADDR_PREFIX), drop()].concat()),
    rule(&ARRIVING, "and only the host sends from 127.0.0.1",
        |_| [not_from_lo(), loopback(SADDR_PREFIX), drop()].concat()),

    rule(&TO_HOST, "published ports, for packets from outside and from containers",
        |_| [local(FIB_DADDR_TYPE), jump(&TO_CONTAINER)].concat()),
    rule(&FROM_HOST, "published ports, for packets of the host itself",
        |_| [local(FIB_DADDR_TYPE), jump(&TO_CONTAINER)].concat()),
    rule(&TO_CONTAINER, "a port that is published on one address",
        |_| [ipv4(), dnat(&AT_ADDRESS, &PORTS)].concat()),
    rule(&TO_CONTAINER, "a port that is published on every address",
        |_| [ipv4(), dnat(&AT_EVERY_ADDRESS, &PORTS)].concat()),

    // Each packet of every connection passes here, so the commonest are asked for first.
    rule(&FORWARDED, "to containers",
        |_| [within(&[OIFNAME], &BRIDGES), jump(&COMING_IN)].concat()),
    rule(&FORWARDED, "from containers to other networks",
        |_| [within(&[IIFNAME], &BRIDGES), jump(&GETTING_OUT)].concat()),
    rule(&COMING_IN, "answers",
        |_| [is(CT_DIRECTION, &[REPLY]), accept()].concat()),
    rule(&COMING_IN, "a new connection from a container: not too many",
        |_| [from_container(), jump(&BEGINNING)].concat()),
    rule(&COMING_IN, "to a published port; the chain published decides how long",
        |_| [any_of(CT_STATUS, DNAT), accept()].concat()),
    rule(&COMING_IN, "between containers of one bridge",
        |_| [within(&[IIFNAME, OIFNAME], &WITHIN), accept()].concat()),
    rule(&COMING_IN, "nothing else reaches a container",
        |_| drop()),
    rule(&GETTING_OUT, "of a connection that was let out or in",
        |_| [any_of(CT_STATUS, CONFIRMED), accept()].concat()),
    rule(&GETTING_OUT, "a new connection: not too many",
        |_| [any_of(CT_STATE, NEW), jump(&BEGINNING)].concat()),
    rule(&GETTING_OUT, "a new connection, of a protocol that can be told from the host's own",
        |_| [any_of(CT_STATE, NEW), ipv4(), within(&[SADDR], &SUBNETS), within(&[L4PROTO], &PROTOCOLS),
            accept()].concat()),
    rule(&GETTING_OUT, "nothing else leaves; without a connection a packet is not masqueraded",
        |_| drop()),
];

#[rustfmt::skip]
pub const NO_ROUTER_FOR_OTHERS: [Rules; 5] = [
    rule(&FORWARDED, "netsetgo switched forwarding on (ip_forward is 2), for containers only",
        |_| [ipv4(), jump(&NO_ROUTER)].concat()),

    rule(&NO_ROUTER, "answers",
        |_| [is(CT_DIRECTION, &[REPLY]), accept()].concat()),
    rule(&NO_ROUTER, "what DNAT of others sends on",
        |_| [any_of(CT_STATUS, DNAT), accept()].concat()),
    rule(&NO_ROUTER, "from a bridge of others: they decide",
        |_| [is(IIFKIND, &elements::padded("bridge")), accept()].concat()),
    rule(&NO_ROUTER, "from any other interface the host routes nothing, as before",
        |_| drop()),
];

#[rustfmt::skip]
pub const NAT: [Rules; 15] = [
    rule(&LEAVING, "connections to published ports, both directions",
        |_| [any_of(CT_STATUS, DNAT), within(&[CT_REPLY_SADDR], &SUBNETS), jump(&PUBLISHED)].concat()),
    rule(&PUBLISHED, "the port is still published (tcp, one address)",
        |_| [protocol(Protocol::Tcp), within(&LIVE_AT_ADDRESS, &LIVE), accept()].concat()),
    rule(&PUBLISHED, "the port is still published (tcp, every address)",
        |_| [protocol(Protocol::Tcp), within(&LIVE_AT_EVERY_ADDRESS, &LIVE), accept()].concat()),
    rule(&PUBLISHED, "the port is still published (udp, one address)",
        |_| [protocol(Protocol::Udp), within(&LIVE_AT_ADDRESS, &LIVE), accept()].concat()),
    rule(&PUBLISHED, "the port is still published (udp, every address)",
        |_| [protocol(Protocol::Udp), within(&LIVE_AT_EVERY_ADDRESS, &LIVE), accept()].concat()),
    rule(&PUBLISHED, "errors about such a connection, while the container publishes a port",
        |_| [any_of(CT_STATE, RELATED), within(&[CT_REPLY_SADDR], &PUBLISHING), accept()].concat()),
    rule(&PUBLISHED, "the container is gone; the next one at its address gets nothing of this",
        |_| drop()),

    rule(&BEHIND_HOST, "containers have the host's address outside (tcp)",
        |_| behind_host(Protocol::Tcp.number())),
    rule(&BEHIND_HOST, "containers have the host's address outside (udp)",
        |_| behind_host(Protocol::Udp.number())),
    rule(&BEHIND_HOST, "containers have the host's address outside (sctp)",
        |_| behind_host(SCTP)),
    rule(&BEHIND_HOST, "containers have the host's address outside (udplite)",
        |_| behind_host(UDP_LITE)),
    rule(&BEHIND_HOST, "containers have the host's address outside (dccp)",
        |_| behind_host(DCCP)),
    rule(&BEHIND_HOST, "containers have the host's address outside (without ports)",
        |_| [to_elsewhere(), masquerade()].concat()),
    rule(&BEHIND_HOST, "from container to published port: the answer has to come back through the host",
        |_| [within(&[OIFNAME], &BRIDGES), ipv4(), within(&[DADDR], &PUBLISHING),
            any_of(CT_STATUS, DNAT), ipv4(), within(&[SADDR], &SUBNETS), masquerade()].concat()),
    rule(&BEHIND_HOST, "from 127.0.0.1 to published port: likewise",
        |_| [within(&[OIFNAME], &BRIDGES), loopback(SADDR_PREFIX), masquerade()].concat()),
];

#[rustfmt::skip]
pub const SOME_FRAGMENTS: [Rules; 1] = [
    rule(&IN_FRAGMENTS, "no more of one user's a second than the policy says (fragments)",
        |_| [ipv4(), limit_of(SADDR, &FRAGMENTS), leave_chain()].concat()),
];

#[rustfmt::skip]
pub const LIMITS: [Rules; 7] = [
    rule(&ARRIVING, "fragments of a container take the memory that the host reassembles with",
        |_| [any_of(IP_FRAGMENT, IS_FRAGMENT), ipv4(), within(&[IIFNAME], &BRIDGES),
            jump(&IN_FRAGMENTS)].concat()),
    rule(&IN_FRAGMENTS, "no more fragments",
        |_| drop()),
    rule(&FOR_HOST, "a new connection from a container: not too many",
        |_| [from_container(), jump(&BEGINNING)].concat()),
    rule(&BEGINNING, "more connections of one container than the policy says (connections)",
        |setup| [ipv4(), more_connections(&[SADDR], &CONNECTIONS, setup.policy.connections), drop()].concat()),
    rule(&BEGINNING, "more of them to one port than the policy says (connections_to_port)",
        |setup| [ipv4(), more_connections(&[SADDR, DADDR, L4PROTO, DPORT], &TO_PORT,
            setup.policy.connections_to_port), drop()].concat()),
    rule(&BEGINNING, "what has ended is soon forgotten",
        |_| [protocol(Protocol::Tcp), set_timeouts(TIMEOUTS.0)].concat()),
    rule(&BEGINNING, "as many pings of one host: an id is their port",
        |setup| [is(L4PROTO, &[ICMP]), ipv4(), more_connections(&[SADDR, DADDR], &TO_HOST_ICMP,
            setup.policy.connections_to_port), drop()].concat()),
];

#[rustfmt::skip]
pub const HOST_ACCESS: [Rules; 4] = [
    rule(&FOR_HOST, "answers to connections that the host began",
        |_| [within(&[IIFNAME], &BRIDGES), is(CT_DIRECTION, &[REPLY]), accept()].concat()),
    rule(&FOR_HOST, "ping of the bridge's address",
        |_| [within(&[IIFNAME], &BRIDGES), ipv4(), is(L4PROTO, &[ICMP]), is(ICMP_TYPE, &[ECHO_REQUEST]),
            local(FIB_DADDR_IIF_TYPE), accept()].concat()),
    rule(&FOR_HOST, "name servers of the policy that are the host",
        |_| [within(&[IIFNAME], &BRIDGES), ipv4(), within(&[L4PROTO, DADDR, DPORT], &NAME_SERVERS),
            accept()].concat()),
    rule(&FOR_HOST, "nothing else of the host is for containers (host_access)",
        |_| [within(&[IIFNAME], &BRIDGES), is(ETHER_SADDR_PREFIX, &CONTAINER_MAC), drop()].concat()),
];

#[rustfmt::skip]
pub const LOCAL_USERS: [Rules; 1] = [
    rule(&LEAVING, "from a program of another user of the host, past the published ports (local_users)",
        |_| [is_not(SKUID, &[0; 4]), within(&[OIFNAME], &BRIDGES), is(CT_DIRECTION, &[ORIGINAL]),
            none_of(CT_STATUS, DNAT), ipv4(), not_within(&[DADDR, SKUID], &OWNED), drop()].concat()),
];
