#![no_main]
netsetgo_fuzz::target!(netsetgo::request::policy::fuzzing::check);
