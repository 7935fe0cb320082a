//! The kernel's services, as this program speaks to them over netlink.

pub mod answer;
pub mod conntrack;
pub mod link;
pub mod netlink;
pub mod nftables;
pub mod route;
pub mod sock_diag;
