#![no_main]
netsetgo_fuzz::target!(netsetgo::fuzzing::host::links);
