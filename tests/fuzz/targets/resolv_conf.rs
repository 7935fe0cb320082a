#![no_main]
netsetgo_fuzz::target!(netsetgo::dns::fuzzing::check);
