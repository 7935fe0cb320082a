#![no_main]
netsetgo_fuzz::target!(netsetgo::hook::fuzzing::check);
