//! A container's state.
#![allow(missing_docs, clippy::panic)]

use super::*;
use crate::fuzzing::one_line;
use crate::request::ports::MOST_PORTS;

/// A state, as a runtime writes it: what does not read is told in one line of bounded length; what
/// reads keeps its bounds.
pub fn check(bytes: &[u8]) {
    let told = |error: Error| one_line(error, 0);
    let state = match State::read(bytes) {
        Ok(state) => state,
        Err(error) => return told(error),
    };
    match state.process() {
        Ok(pid) => assert!(pid.is_none_or(|pid| (1..=PID_LIMIT).contains(&pid))),
        Err(error) => told(error),
    }
    let name = state.name();
    assert!(name.len() <= LONGEST_NAME && name.bytes().all(|b| b.is_ascii_graphic()), "{name:?}");
    let Ok(cli::Request::Hook(mut request)) = cli::parse(["-hook", "-annotations"]) else {
        panic!("no hook")
    };
    match state.complete(&mut request) {
        Ok(_) => {
            assert!(request.publish.len() <= MOST_PORTS);
            assert_eq!(request.container, Some(name).filter(|name| !name.is_empty()));
        }
        // Ports that are given twice are named as they would be on the command line.
        Err(error) => told(error),
    }
}
