//! What parent and child say to each other.
#![allow(missing_docs, clippy::unwrap_used)]

use super::*;
use crate::fuzzing::one_line;
use crate::privilege::child::LONGEST;

/// A message of either's: what reads is written and read the same, and fits.
pub fn check(bytes: &[u8]) {
    let bytes = bytes.get(..LONGEST).unwrap_or(bytes);
    if let Some(Err((step, errno))) = same::<Answer>(bytes) {
        one_line(failed(step, errno), 0);
    }
    same::<Order>(bytes);
}

fn same<T: Serialize + for<'de> Deserialize<'de> + std::fmt::Debug>(bytes: &[u8]) -> Option<T> {
    let message: T = serde_json::from_slice(bytes).ok()?;
    let written = serde_json::to_vec(&message).unwrap();
    assert!(written.len() <= LONGEST, "{} bytes: {message:?}", written.len());
    let read: T = serde_json::from_slice(&written).unwrap();
    assert_eq!(format!("{read:?}"), format!("{message:?}"));
    Some(message)
}
