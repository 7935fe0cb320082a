//! What there is to ask for, a file each.

pub mod attach;
pub mod check;
pub mod delete;
pub mod hook;
pub mod list;
pub mod prune;
mod trial;
