#![no_main]
netsetgo_fuzz::target!(netsetgo::request::hook_state::fuzzing::check);
