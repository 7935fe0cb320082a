#![no_main]
netsetgo_fuzz::target!(netsetgo::container::fuzzing::check);
