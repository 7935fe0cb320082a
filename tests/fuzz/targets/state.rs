#![no_main]
netsetgo_fuzz::target!(netsetgo::fuzzing::hook::check);
