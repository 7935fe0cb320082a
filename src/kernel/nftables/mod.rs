//! A small client of nf_tables, `nft(8)`. Changes are transactions. One can be made to count only for the
//! generation of the ruleset that a decision was based on, so such decisions need no lock.

mod batch;
pub mod expression;
mod ruleset;

use std::net::Ipv4Addr;

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{InetHookNumber, NfTablesMessage};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage};
use nix::libc;

pub use self::batch::Batch;
pub use self::ruleset::{Answer, Ruleset};

/// Families of tables: for IPv4 and IPv6 together, for IPv4 alone, for what goes through bridges.
pub const NFPROTO_INET: u8 = libc::NFPROTO_INET as u8;
pub const NFPROTO_IPV4: u8 = libc::NFPROTO_IPV4 as u8;
pub const NFPROTO_BRIDGE: u8 = libc::NFPROTO_BRIDGE as u8;

/// Types of what nft itself keeps in user data of tables, rules and elements (`libnftnl/udata.h`).
const COMMENT: u8 = 0;
/// A type that nft does not know, and skips.
const VERSION: u8 = 0x4e;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table<'a> {
    /// Its family, an `NFPROTO_*`.
    pub family: u8,
    pub name: &'a str,
}

/// What the bytes of a key are, for nft (`enum datatypes`, `datatype.h`).
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Ipv4 = 7,
    Ether = 9,
    /// The number of a protocol over IP.
    Protocol = 12,
    Port = 13,
    IfIndex = 20,
    /// The id of a user.
    Uid = 24,
    IfName = 41,
}

impl Kind {
    /// The length in bytes, as a part of a concatenation: whole registers.
    fn length(self) -> u32 {
        match self {
            Kind::IfName => 16,
            Kind::Ether => 8,
            _ => 4,
        }
    }
}

/// A named set, or a map if its elements have values.
#[derive(Debug)]
pub struct Set<'a> {
    pub table: Table<'a>,
    pub name: &'a str,
    /// What it is for.
    pub comment: &'a str,
    /// What a key consists of.
    pub key: &'a [Kind],
    /// What a value consists of; empty in a set.
    pub value: &'a [Kind],
    /// Whether its keys are ranges.
    pub ranges: bool,
    /// Whether its elements have limits as values.
    pub limits: bool,
    /// Whether rules add its elements. The most that there can be.
    pub by_rules: Option<u32>,
}

#[derive(Debug)]
pub struct Chain {
    pub table: Table<'static>,
    pub name: &'static str,
    /// Its type, hook and priority, if it is a base chain.
    pub base: Option<(&'static str, InetHookNumber, i32)>,
}

#[derive(Debug)]
pub struct Rule {
    pub chain: &'static Chain,
    /// What it is for.
    pub comment: &'static str,
}

/// What tells one rule from another: the family of its table, its chain and its user data. The user data
/// has the comment, the version of the ruleset and the numbers in it, so a rule is recognised without
/// reading it.
pub type RuleMark = (u8, String, Vec<u8>);

impl Rule {
    /// What tells this rule, of this version of the ruleset, from others.
    pub fn mark(&self, version: &[u8]) -> RuleMark {
        let data = [text_data(COMMENT, self.comment), user_data(VERSION, version)].concat();
        (self.chain.table.family, self.chain.name.to_owned(), data)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    /// Its key, each part filled up to whole registers.
    pub key: Vec<u8>,
    /// Its value, likewise; empty in a set.
    pub value: Vec<u8>,
    /// The name of the limit that it has as a value, likewise. It is written and not read.
    pub limit: String,
    /// Its comment; empty if there is none.
    pub comment: String,
    /// Whether it says only that a range ends before this key.
    pub end: bool,
    /// The last key of a range, where keys have several parts; empty if it is this one. It is written
    /// and not read.
    pub last: Vec<u8>,
}

impl Element {
    /// An element of a set.
    pub fn key(key: Vec<u8>) -> Element {
        Element { key, ..Element::default() }
    }

    /// The IPv4 address that the key begins with.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.key.first_chunk().copied().map(Ipv4Addr::from)
    }
}

/// A message about a table, or something in it.
fn message(table: Table, request: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(table.family.into(), 0, 0), request)
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

/// An attribute that is a text.
fn text(kind: u16, words: &str) -> DefaultNla {
    DefaultNla::new(kind, [words.as_bytes(), &[0]].concat())
}

/// A piece of user data: type, length and value, a byte each of the first two.
fn user_data(kind: u8, value: &[u8]) -> Vec<u8> {
    let value = value.get(..usize::from(u8::MAX)).unwrap_or(value);
    let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
    [&[kind, length], value].concat()
}

fn text_data(kind: u8, words: &str) -> Vec<u8> {
    user_data(kind, &[words.as_bytes(), &[0]].concat())
}

/// What the fuzz targets check here.
#[cfg(fuzzing)]
#[path = "../../../tests/fuzz/within/nftables.rs"]
pub mod fuzzing;
