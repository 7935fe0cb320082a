//! The rules for frames at bridge ports, as nft lists them.

use nix::libc::{ETH_P_ARP, ETH_P_IP};

use super::rules::{Rules, host_end, rule};
use super::tables::*;
use crate::kernel::nftables::expression::*;
use crate::network::lease::{ADDRESS_BITS, MARK};
use crate::request::ports::Protocol;

/// The port that DHCP servers send from (RFC 2131).
const DHCP_SERVER: u16 = 67;

/// ICMP and types of its messages (RFC 792).
pub const ICMP: u8 = 1;
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
/// Its code for a packet that is longer than the path allows (RFC 1191).
const TOO_LONG: u8 = 4;
pub const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;

/// The first byte of an IPv4 header without options (RFC 791).
const PLAIN_IPV4: u8 = 0x45;
/// The bits of [`IP_FRAGMENT`] that are not zero in a fragment, and in each but the first.
pub const IS_FRAGMENT: u32 = u32::from_ne_bytes([0, 0, 0x3f, 0xff]);
const FRAGMENT_OFFSET: u32 = u32::from_ne_bytes([0, 0, 0x1f, 0xff]);

/// `PACKET_HOST` (`linux/if_packet.h`): a frame to this host's own Ethernet address.
const TO_THIS_HOST: u8 = 0;

/// What [`LEASES`] says of a bridge port: these are the addresses that belong to it.
fn leased(ether: Field, ip: Field) -> Statement {
    within(&[IIF.bits(ADDRESS_BITS), ether, ip], &LEASES)
}

/// The bits of a length, one of which is set if it is much longer than this.
fn longer_than(length: u32) -> u32 {
    !((length + 1).next_power_of_two() - 1)
}

fn bridged_ipv4() -> Statement {
    is(PROTOCOL, &ether_type(ETH_P_IP))
}

/// From an address that belongs to the bridge port.
fn from_own_address() -> Statement {
    [bridged_ipv4(), leased(ETHER_SADDR, SADDR)].concat()
}

const fn ether_type(number: i32) -> [u8; 2] {
    (number as u16).to_be_bytes()
}

#[rustfmt::skip]
pub const NOT_BY_WAY_OF_THE_HOST: [Rules; 2] = [
    rule(&SENT_IPV4, "to another container, but by the host's Ethernet address: isolation would not see it",
        |_| [is(PKTTYPE, &[TO_THIS_HOST]), bridged_ipv4(), within(&[DADDR], &ADDRESSES), drop()].concat()),
    rule(&PASSED_ON, "to the host, which sent it to a published port (bridge-nf-call-iptables)",
        |_| [is(PKTTYPE, &[TO_THIS_HOST]), accept()].concat()),
];

#[rustfmt::skip]
pub const NO_FORGED_SOURCE: [Rules; 25] = [
    rule(&SENT, "not from a container",
        |_| [is_not(IIF.bits(MARK), &MARK.to_ne_bytes()), accept()].concat()),
    // The frame itself says what it is: a tagged one is something else. A packet that ends before the ports
    // takes the second rule.
    rule(&SENT, "IPv4: from here on its sender cannot change the headers",
        |_| [is(ETHER_TYPE, &ether_type(ETH_P_IP)), make_private(PORTS_END), jump(&SENT_IPV4)].concat()),
    rule(&SENT, "IPv4 that ends early, likewise",
        |_| [is(ETHER_TYPE, &ether_type(ETH_P_IP)), make_private(IPV4_END), jump(&SENT_IPV4)].concat()),
    rule(&SENT, "ARP, likewise",
        |_| [is(ETHER_TYPE, &ether_type(ETH_P_ARP)), make_private(PORTS_END), jump(&SENT_ARP)].concat()),
    rule(&SENT, "nothing else: no IPv6, no tagged frame, no STP",
        |_| drop()),
    rule(&SENT_IPV4, "no IPv4 options: the kernel looked for the ports before it had its own copy",
        |_| [is_not(IP_VERSION_LENGTH, &[PLAIN_IPV4]), drop()].concat()),
    rule(&SENT_IPV4, "from the addresses that belong to the bridge port",
        |_| [from_own_address(), jump(&OWN_IPV4)].concat()),
    rule(&SENT_IPV4, "from any other address",
        |_| drop()),
    rule(&OWN_IPV4, "fragments",
        |_| [any_of(IP_FRAGMENT, IS_FRAGMENT), jump(&FRAGMENT)].concat()),
    rule(&OWN_IPV4, "TCP",
        |_| [is(IP_PROTOCOL, &[Protocol::Tcp.number()]), accept()].concat()),
    rule(&OWN_IPV4, "ICMP says things of connections, which may be others'",
        |_| [is(IP_PROTOCOL, &[ICMP]), jump(&SENT_ICMP)].concat()),
    rule(&OWN_IPV4, "no DHCP server",
        |_| [is(PLAIN_SPORT, &DHCP_SERVER.to_be_bytes()), drop()].concat()),
    rule(&OWN_IPV4, "everything else from the own address",
        |_| accept()),
    rule(&FRAGMENT, "larger than a packet can be: it would fill the memory for reassembly",
        |setup| [any_of(LENGTH, longer_than(setup.policy.mtu)), drop()].concat()),
    rule(&FRAGMENT, "after the first one, which decides",
        |_| [any_of(IP_FRAGMENT, FRAGMENT_OFFSET), accept()].concat()),
    rule(&SENT_ICMP, "echo request",
        |_| [is(PLAIN_ICMP_TYPE, &[ECHO_REQUEST]), accept()].concat()),
    rule(&SENT_ICMP, "echo reply",
        |_| [is(PLAIN_ICMP_TYPE, &[ECHO_REPLY]), accept()].concat()),
    rule(&SENT_ICMP, "no path MTU: a remote host would take it for the whole host's",
        |_| [is(PLAIN_ICMP_TYPE_CODE, &[UNREACHABLE, TOO_LONG]), drop()].concat()),
    rule(&SENT_ICMP, "destination unreachable",
        |_| [is(PLAIN_ICMP_TYPE, &[UNREACHABLE]), jump(&ICMP_ERROR)].concat()),
    rule(&SENT_ICMP, "time exceeded",
        |_| [is(PLAIN_ICMP_TYPE, &[TIME_EXCEEDED]), jump(&ICMP_ERROR)].concat()),
    rule(&SENT_ICMP, "no other message",
        |_| drop()),
    // An expression cannot compare two fields. So the error's source becomes what it should be; if it
    // was that, nothing is changed, and else it is no longer the bridge port's.
    rule(&ICMP_ERROR, "about a packet to this container: its destination is the error's source",
        |_| [make_private(INNER_PORTS_END), is(INNER_VERSION_LENGTH, &[PLAIN_IPV4]),
            copy(INNER_DADDR, SADDR), from_own_address(), accept()].concat()),
    rule(&ICMP_ERROR, "about a packet to another address, or one that cannot be told",
        |_| drop()),
    rule(&SENT_ARP, "from the addresses that belong to the bridge port, in the frame and in the message",
        |_| [is(ETHER_TYPE, &ether_type(ETH_P_ARP)), is(ARP_TYPES, &[0, 1, 8, 0]),
            is(ARP_LENGTHS, &[6, 4]), leased(ETHER_SADDR, ARP_SADDR_IP),
            leased(ARP_SADDR_ETHER, ARP_SADDR_IP), accept()].concat()),
    rule(&SENT_ARP, "from any other address",
        |_| drop()),
];

#[rustfmt::skip]
pub const USERS_APART: [Rules; 1] = [
    rule(&PASSED_ON, "from a container of one user to one of another (isolation)",
        |_| [host_end(IIF), host_end(OIF), not_within(&[IIFNAME, OIFNAME], &USERS), drop()].concat()),
];

#[rustfmt::skip]
pub const CONTAINERS_APART: [Rules; 1] = [
    rule(&PASSED_ON, "from one container to another (isolation)",
        |_| [host_end(IIF), host_end(OIF), drop()].concat()),
];
