//! The policy: `/etc/netsetgo.toml`, by which an administrator says who may attach containers, how
//! many, and to which network. See `netsetgo.toml(5)`.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Deserialize;

use crate::privilege::caller::Caller;
use crate::report::error::{Failed, Refused, Result};
use crate::request::accounts;
use crate::request::address::{Cidr, IfName};
use crate::request::cli::Attach;
use crate::request::ports::Granted;
use crate::request::read;

/// Where the policy is kept.
pub const PATH: &str = "/etc/netsetgo.toml";

/// The most bytes that are read of the policy.
const LARGEST: u64 = 16 << 20;

/// The most ports that a bridge can have (`BR_MAX_PORTS` less one, `net/bridge/br_private.h`), and
/// so the most containers at once.
pub const MOST_LINKS: u32 = 1023;

/// The prefix lengths that a subnet can have: from one that fills a bridge to one of a single container.
pub const PREFIXES: RangeInclusive<u8> = 22..=30;

/// The lowest MTU of a bridge: IPv6's (RFC 8200). Below it the kernel has no IPv6 settings of the
/// bridge, so none that could be made safe before somebody raises the MTU.
const LEAST_MTU: u32 = 1280;

/// The network that a caller is granted, and how much of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// The bridge on the host.
    pub bridge: IfName,
    /// The bridge's address, and with it the subnet.
    pub address: Cidr,
    /// The MTU that the bridge gets when it is made, in bytes.
    pub mtu: u32,
    /// Whether containers get a way out, behind the host's address.
    pub nat: bool,
    /// Which containers reach which.
    pub isolation: Isolation,
    /// What of the host containers reach.
    pub host_access: HostAccess,
    /// The name servers that containers are to use, if not the host's own.
    pub dns: Option<Vec<Ipv4Addr>>,
    /// The caller's real user id.
    pub uid: u32,
    /// How many containers the caller may have attached at once.
    pub links: u32,
    /// The host ports that he may publish; `None` for every one.
    pub publish: Option<Vec<Granted>>,
}

/// Which containers reach which others directly. Published ports are reached by all.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Those of one user each other.
    #[default]
    User,
    /// None any other.
    Container,
    /// Each every other.
    None,
}

/// What containers reach of the host, on any of its addresses.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostAccess {
    /// Published ports, and with ping the bridge's address.
    #[default]
    Published,
    /// Whatever it offers.
    All,
}

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    #[serde(default)]
    network: Network,
    #[serde(default)]
    allow: Vec<Allow>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Network {
    bridge: IfName,
    address: Cidr,
    #[serde(deserialize_with = "mtu")]
    mtu: u32,
    nat: bool,
    isolation: Isolation,
    host_access: HostAccess,
    dns: Option<Vec<Ipv4Addr>>,
}

impl Default for Network {
    fn default() -> Self {
        #[allow(clippy::expect_used, reason = "constants, parsed in every test")]
        Network {
            bridge: "brg0".parse().expect("a name"),
            address: "10.10.10.1/24".parse().expect("an address"),
            mtu: 1500,
            nat: true,
            isolation: Isolation::default(),
            host_access: HostAccess::default(),
            dns: None,
        }
    }
}

/// One `[[allow]]` entry.
#[derive(Debug, Deserialize)]
#[serde(try_from = "RawAllow")]
struct Allow {
    who: Who,
    links: u32,
    publish: Vec<Granted>,
}

#[derive(Debug)]
enum Who {
    User(String),
    Uid(u32),
    Group(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAllow {
    user: Option<String>,
    uid: Option<u32>,
    group: Option<String>,
    #[serde(default = "default_links", deserialize_with = "links")]
    links: u32,
    #[serde(default)]
    publish: Vec<Granted>,
}

impl TryFrom<RawAllow> for Allow {
    type Error = &'static str;

    fn try_from(raw: RawAllow) -> Result<Self, Self::Error> {
        let who = match (raw.user, raw.uid, raw.group) {
            (Some(user), None, None) => Who::User(user),
            (None, Some(uid), None) => Who::Uid(uid),
            (None, None, Some(group)) => Who::Group(group),
            _ => return Err("an [[allow]] entry has exactly one of user, uid and group"),
        };
        Ok(Allow { who, links: raw.links, publish: raw.publish })
    }
}

fn default_links() -> u32 {
    16
}

/// Reads an integer between `least` and `most`; the error comes with its place in the file.
fn between<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
    least: u32,
    most: u32,
) -> Result<u32, D::Error> {
    let number = i64::deserialize(deserializer)?;
    u32::try_from(number).ok().filter(|number| (least..=most).contains(number)).ok_or_else(|| {
        serde::de::Error::custom(format!("{number} is not between {least} and {most}"))
    })
}

fn mtu<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    between(deserializer, LEAST_MTU, 65535)
}

fn links<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    between(deserializer, 0, MOST_LINKS)
}

impl Policy {
    /// Reads and checks the file at `path`. `None` means that there is none.
    ///
    /// # Errors
    /// [`Refused::UntrustedPolicy`] when somebody else than root may have written it, and
    /// [`Failed::Policy`], with line and column, when it does not read as a policy.
    pub fn load(path: &Path) -> Result<Option<Policy>> {
        let failed = |error| Failed::File(path.into(), error);
        let file = match read::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error).into()),
        };
        check_owner(&file, path)?;
        let text = read::at_most(LARGEST, file).map_err(failed)?;
        let text = String::from_utf8(text).map_err(|error| failed(io::Error::other(error)))?;
        Policy::parse(&text, path).map(Some)
    }

    fn parse(text: &str, path: &Path) -> Result<Policy> {
        toml::from_str(text).map_err(|error| {
            let (line, column) = place(text, error.span().map_or(0, |span| span.start));
            let why = error.message().to_owned();
            Failed::Policy { path: path.into(), line, column, why }.into()
        })
    }

    /// The first entry that matches `caller`.
    fn entry(&self, caller: &Caller, accounts: &Accounts) -> Option<&Allow> {
        let user = accounts::name_of(caller.uid, &accounts.passwd);
        self.allow.iter().find(|entry| match &entry.who {
            Who::Uid(uid) => *uid == caller.uid,
            Who::User(name) => accounts::uid_of(name, &accounts.passwd) == Some(caller.uid),
            // Only for a user with an account of his own: the sub-uids that he can run a process as
            // have his groups too, and would each have a quota.
            Who::Group(name) => user.is_some_and(|user| {
                accounts::in_group(name, &accounts.gids, user, &accounts.group)
            }),
        })
    }

    /// Whether an entry names its user or group, so that the accounts have to be read.
    fn has_names(&self) -> bool {
        self.allow.iter().any(|entry| !matches!(entry.who, Who::Uid(_)))
    }
}

/// What there is to know of the caller's account: the texts of `/etc/passwd` and `/etc/group`, and
/// the groups of the process itself.
#[derive(Default)]
struct Accounts {
    gids: Vec<u32>,
    passwd: String,
    group: String,
}

impl Accounts {
    fn load(caller: &Caller) -> Result<Accounts> {
        Ok(Accounts {
            gids: caller.gids()?,
            passwd: accounts::passwd()?,
            group: accounts::group()?,
        })
    }
}

/// What `caller` is granted, by the policy at [`PATH`]. Root is granted everything.
///
/// # Errors
/// [`Refused`] when the policy cannot be trusted or does not allow him; [`Failed`] when it cannot be
/// read.
pub fn grant(caller: &Caller) -> Result<Grant> {
    let path = Path::new(PATH);
    let mut policy = match Policy::load(path)? {
        Some(policy) => policy,
        None if caller.is_root() => Policy::default(),
        None => return Err(Refused::NoPolicy(path.into()).into()),
    };
    let Network { bridge, address, mtu, nat, isolation, host_access, dns } =
        std::mem::take(&mut policy.network);
    let mut grant = Grant {
        bridge,
        address,
        mtu,
        nat,
        isolation,
        host_access,
        dns,
        uid: caller.uid,
        links: MOST_LINKS,
        publish: None,
    };
    if caller.is_root() {
        return Ok(grant);
    }
    let accounts = match policy.has_names() {
        true => Accounts::load(caller)?,
        false => Accounts::default(),
    };
    let entry = policy
        .entry(caller, &accounts)
        .filter(|entry| entry.links > 0)
        .ok_or_else(|| Refused::NotAllowed(caller.uid, path.into()))?;
    grant.links = entry.links;
    grant.publish = Some(entry.publish.clone());
    Ok(grant)
}

/// What `caller` is granted of what he asks for.
///
/// # Errors
/// As [`grant`], and [`Failed`] when what the policy or the request says cannot be.
pub fn grant_attach(caller: &Caller, request: &Attach) -> Result<Grant> {
    let mut grant = grant(caller)?;
    narrow(&mut grant, caller, request)?;
    Ok(grant)
}

/// Brings the request's own bridge and address in, where the caller may name them, and checks what
/// can be checked by arithmetic.
fn narrow(grant: &mut Grant, caller: &Caller, request: &Attach) -> Result<()> {
    if let Some(bridge) = request.bridge_name.as_ref().filter(|name| **name != grant.bridge) {
        if !caller.is_root() {
            return Err(Refused::Bridge(bridge.clone(), grant.bridge.clone()).into());
        }
        grant.bridge = bridge.clone();
    }
    if let Some(address) = request.bridge_address.filter(|address| *address != grant.address) {
        if !caller.is_root() {
            return Err(Refused::BridgeAddress(address, grant.address).into());
        }
        grant.address = address;
    }
    if !PREFIXES.contains(&grant.address.prefix) {
        return Err(Failed::SubnetSize(grant.address).into());
    }
    let ip = grant.address.ip;
    if !grant.address.is_host(ip) || ip.is_loopback() || ip.is_multicast() || ip.octets()[0] == 0 {
        return Err(Failed::NoHostAddress(grant.address).into());
    }
    request.container_address.map_or(Ok(()), |address| container_address(grant.address, address))
}

/// Checks an address asked for with `-containerAddress` against the bridge's.
fn container_address(bridge: Cidr, asked: Cidr) -> Result<()> {
    let wrong = if !bridge.contains(asked.ip) {
        "not in the bridge's subnet"
    } else if asked.prefix != bridge.prefix {
        "its prefix length is not the bridge's"
    } else if asked.ip == bridge.ip {
        "the bridge's own address"
    } else if asked.ip == bridge.network() {
        "the network's own address"
    } else if asked.ip == bridge.broadcast() {
        "the broadcast address"
    } else {
        return Ok(());
    };
    Err(Failed::ContainerAddress(asked, wrong).into())
}

fn check_owner(file: &File, path: &Path) -> Result<()> {
    let facts = file.metadata().map_err(|error| Failed::File(path.into(), error))?;
    let wrong = if !facts.is_file() {
        "not a regular file"
    } else if facts.uid() != 0 {
        "not owned by root"
    } else if facts.mode() & 0o022 != 0 {
        "others can write it"
    } else {
        return Ok(());
    };
    Err(Refused::UntrustedPolicy(path.into(), wrong).into())
}

/// Line and column, each counted from 1, of the byte at `offset`.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).map_or(0, |line| line.chars().count());
    (before.matches('\n').count() + 1, column + 1)
}

/// What the fuzz targets check here.
#[cfg(fuzzing)]
#[path = "../../tests/fuzz/within/policy.rs"]
pub mod fuzzing;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Policy> {
        Policy::parse(text, Path::new("/p"))
    }

    fn wrong(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_file_has_the_defaults_and_allows_nobody() {
        let policy = parse("").unwrap();
        assert_eq!(policy.network.bridge.as_str(), "brg0");
        assert_eq!(policy.network.address.to_string(), "10.10.10.1/24");
        assert_eq!(policy.network.mtu, 1500);
        assert!(policy.allow.is_empty());
    }

    #[test]
    fn an_error_names_its_line_and_column() {
        assert!(wrong("[network]\nbrigde = \"x\"").contains("line 2, column 1: unknown field"));
        assert!(wrong("[network]\nmtu = 1279").contains("line 2, column 7: 1279 is not between"));
        assert!(wrong("x").contains("line 1, column "));
        assert!(wrong("[network]\nbridge = \"a b\"").contains("line 2, column 10: an interface"));
    }

    #[test]
    fn an_entry_names_exactly_one_user_or_group() {
        for text in ["links = 1", "uid = 1\nuser = \"a\"", "group = \"g\"\nuid = 1"] {
            let text = format!("[[allow]]\n{text}");
            assert!(wrong(&text).contains("line 1, column 1: an [[allow]] entry"), "{text}");
        }
        assert!(wrong("[[allow]]\nuid = -1").contains("line 2"));
        assert!(wrong("[[allow]]\nuid = 1\nlinks = 1024").contains("not between 0 and 1023"));
    }

    #[test]
    fn the_first_entry_that_matches_decides() {
        let policy = parse(
            "[[allow]]\nuser = \"alice\"\nlinks = 0\n[[allow]]\ngroup = \"netdev\"\nlinks = 4\n\
             [[allow]]\nuid = 1001\nlinks = 9",
        )
        .unwrap();
        let accounts = |gids: &[u32]| Accounts {
            gids: gids.to_vec(),
            passwd: "alice:x:1000:1000::/:\nbob:x:1001:1001::/:\n".to_owned(),
            group: "netdev:x:106:alice\n".to_owned(),
        };
        let links = |uid, gids: &[u32]| {
            policy.entry(&Caller::for_test(uid), &accounts(gids)).map(|entry| entry.links)
        };
        assert_eq!(links(1000, &[106]), Some(0));
        assert_eq!(links(1001, &[106]), Some(4));
        assert_eq!(links(1001, &[1001]), Some(9));
        assert_eq!(links(1002, &[1002]), None);
        assert_eq!(links(100_000, &[106]), None, "a sub-uid with its user's groups");
    }

    #[test]
    fn an_address_that_no_container_can_have_is_said_to_be_so() {
        let check = |asked: &str| {
            let bridge = "10.10.10.1/24".parse().unwrap();
            container_address(bridge, asked.parse().unwrap()).map_err(|error| error.to_string())
        };
        assert!(check("10.10.10.2/24").is_ok());
        for (asked, why) in [
            ("10.10.11.2/24", "not in"),
            ("10.10.10.2/25", "prefix"),
            ("10.10.10.1/24", "own address"),
            ("10.10.10.0/24", "network"),
            ("10.10.10.255/24", "broadcast"),
        ] {
            assert!(check(asked).unwrap_err().contains(why), "{asked}");
        }
    }
}
