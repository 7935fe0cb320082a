#![no_main]
netsetgo_fuzz::target!(netsetgo::fuzzing::dns::check);
