//! Links, as the kernel tells of them: whatever it says is a link, or an error in one line.
#![no_main]

use netsetgo::fuzzing::link::{self, By, Kind, Link, Namespace};
use netsetgo::fuzzing::netlink::{are_parts, kernel};
use netsetgo::fuzzing::one_line;

/// `RTM_NEWLINK` and `RTM_NEWNSID` (`linux/rtnetlink.h`).
const LINK: u16 = 16;
const NAMESPACE: u16 = 88;

netsetgo_fuzz::target!(check);

fn check(bytes: &[u8]) {
    are_parts(bytes);
    let Some((question, rest)) = bytes.split_first() else { return };
    let answer = if question % 5 == 3 { NAMESPACE } else { LINK };
    let Some(mut kernel) = kernel(answer, rest) else { return };
    let netlink = &mut kernel.netlink;
    let own = Link { index: 7, peer: Some(2), peer_namespace: Some(3), ..Link::default() };
    let name = "veth1".parse().unwrap();
    let error = match question % 5 {
        0 => link::get(netlink, By::Name(&name)).err(),
        1 => link::all(netlink, Kind::Veth).err(),
        2 => return drop(link::name_inside(netlink, &own)),
        3 => match link::namespace_id(netlink, Namespace::Process(1)) {
            Ok(id) => return assert!(id.is_none_or(|id| id >= 0)),
            Err(error) => Some(error),
        },
        _ => netlink.change(link::set_up(7), 0).err(),
    };
    let _ = Kind::from(rest);
    error.map(|error| one_line(error, bytes.len()));
}
