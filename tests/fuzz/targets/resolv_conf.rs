#![no_main]
netsetgo_fuzz::target!(netsetgo::report::dns::fuzzing::check);
