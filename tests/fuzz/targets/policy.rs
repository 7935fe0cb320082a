#![no_main]
netsetgo_fuzz::target!(netsetgo::policy::fuzzing::check);
