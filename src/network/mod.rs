//! The network of containers on the host: the bridge, its ports, and who has which address.

pub mod bridge;
mod host;
pub mod lease;
pub mod owner;
pub mod pool;
pub mod port;
pub mod take;

pub use self::host::Host;
