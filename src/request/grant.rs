//! What the policy grants the caller, and what it grants of what the caller asks for.

use std::fmt::Display;

use crate::privilege::caller::Caller;
use crate::report::error::{Failed, Refused, Result, first_of};
use crate::request::accounts::{GROUP, PASSWD, text_of};
use crate::request::address::Cidr;
use crate::request::cli::Attach;
use crate::request::policy::{Allow, Grant, PREFIXES, Policy};

/// What grants are read from, as the files have it. Of the account files nothing, if the policy has no
/// names.
#[derive(PartialEq)]
pub struct Sources {
    policy: Option<String>,
    passwd: String,
    group: String,
}

impl Sources {
    pub fn read() -> Result<Sources> {
        let policy = Policy::text()?;
        let names = |text: &String| text.contains("user") || text.contains("group");
        let (passwd, group) = match policy.as_ref().is_some_and(names) {
            true => (text_of(PASSWD)?, text_of(GROUP)?),
            false => Default::default(),
        };
        Ok(Sources { policy, passwd, group })
    }

    fn policy(&self) -> Result<Option<Policy>> {
        self.policy.as_deref().map(Policy::parse).transpose()
    }
}

impl Grant {
    /// What the policy grants the caller.
    pub fn of(caller: &Caller) -> Result<Grant> {
        Grant::from(&Sources::read()?, caller)
    }

    /// What the policy grants the caller. Root is granted everything.
    pub fn from(sources: &Sources, caller: &Caller) -> Result<Grant> {
        let policy = sources.policy()?;
        if caller.is_root() {
            return Ok(policy.unwrap_or_default().network);
        }
        let policy = policy.ok_or(Refused::NoPolicy)?;
        let uid = caller.uid;
        let entry = policy.entry(uid, &caller.gids()?, &sources.passwd, &sources.group);
        let entry = entry.filter(|entry| entry.links > 0).ok_or(Refused::NotAllowed(uid))?;
        let Allow { links, ports, ref publish, .. } = *entry;
        Ok(Grant { uid, links, ports, publish: Some(publish.clone()), ..policy.network })
    }

    /// The policy's network, for a caller who takes own containers' away. That needs no entry: an entry may
    /// be gone before the containers are.
    pub fn to_delete(caller: &Caller) -> Result<Grant> {
        let policy = Policy::text()?.as_deref().map(Policy::parse).transpose()?;
        Ok(Grant { uid: caller.uid, ..policy.unwrap_or_default().network })
    }

    /// The same, with the bridge and its address as the request has them. Of the addresses, this
    /// checks what arithmetic can tell.
    pub fn for_request(mut self, caller: &Caller, request: &Attach) -> Result<Grant> {
        self.bridge = choose("bridgeName", self.bridge, request.bridge_name.clone(), caller)?;
        self.address = choose("bridgeAddress", self.address, request.bridge_address, caller)?;
        check_bridge_address(self.address)?;
        if let Some(address) = request.container_address {
            check_container_address(self.address, address)?;
        }
        Ok(self)
    }

    /// Checks that this is still what is granted `now`.
    pub fn unchanged(&self, now: Grant) -> Result<()> {
        if now == *self { Ok(()) } else { Err(Failed::PolicyChanged.into()) }
    }
}

/// How many containers the policy grants each user, as far as the account files tell.
pub fn granted_links() -> Result<impl Fn(u32) -> u32> {
    let sources = Sources::read()?;
    let policy = sources.policy()?.unwrap_or_default();
    let entry_of =
        move |uid| policy.entry(uid, &[], &sources.passwd, &sources.group).map(|entry| entry.links);
    Ok(move |uid| entry_of(uid).unwrap_or_default())
}

/// The value of an option, or else the policy's. Only root may ask for another than the policy's.
fn choose<T: Display + PartialEq>(
    option: &'static str,
    own: T,
    asked: Option<T>,
    caller: &Caller,
) -> Result<T> {
    match asked {
        Some(asked) if asked != own && !caller.is_root() => {
            Err(Refused::Another(option, asked.to_string(), own.to_string()).into())
        }
        asked => Ok(asked.unwrap_or(own)),
    }
}

fn check_bridge_address(bridge: Cidr) -> Result<()> {
    let ip = bridge.ip;
    let odd = !bridge.is_host(ip) || ip.is_loopback() || ip.is_multicast() || ip.octets()[0] == 0;
    let fits = PREFIXES.contains(&bridge.prefix);
    first_of(&[
        (!fits, "the subnet is not between /22 and /30; one bridge has at most 1023 ports"),
        (odd, "not an address that a host can have in its subnet"),
    ])
    .map_err(|why| Failed::Address("the bridge's address", bridge, why).into())
}

fn check_container_address(bridge: Cidr, asked: Cidr) -> Result<()> {
    first_of(&[
        (!bridge.contains(asked.ip), "not in the bridge's subnet"),
        (asked.prefix != bridge.prefix, "its prefix length is not the bridge's"),
        (asked.ip == bridge.ip, "the bridge's own address"),
        (asked.ip == bridge.network(), "the network's own address"),
        (asked.ip == bridge.broadcast(), "the broadcast address"),
    ])
    .map_err(|why| Failed::Address("-containerAddress", asked, why).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::cli::{self, Request};

    #[test]
    fn only_root_asks_for_another_bridge_than_the_policys() {
        let narrowed = |uid, arguments: &str| {
            let arguments = format!("-hook {arguments}");
            let Ok(Request::Hook(request)) = cli::parse(arguments.split(' ')) else {
                panic!("{arguments}")
            };
            Grant::default().for_request(&Caller::for_test(uid), &request)
        };
        for other in ["-bridgeName tower", "-bridgeAddress 10.10.11.1/24"] {
            assert_eq!(narrowed(1000, other).unwrap_err().exit_status(), 3, "{other}");
            assert_ne!(narrowed(0, other).unwrap(), Grant::default(), "{other}");
        }
        for same in ["-bridgeName brg0", "-bridgeAddress 10.10.10.1/24"] {
            assert_eq!(narrowed(1000, same).unwrap(), Grant::default(), "{same}");
        }
        assert!(narrowed(0, "-bridgeAddress 10.0.0.1/21").is_err());
        assert!(narrowed(0, "-bridgeAddress 127.0.0.1/24").is_err());
    }

    #[test]
    fn an_address_that_no_container_can_have_is_said_to_be_so() {
        let check = |asked: &str| {
            let bridge = "10.10.10.1/24".parse().unwrap();
            check_container_address(bridge, asked.parse().unwrap())
                .map_err(|error| error.to_string())
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
