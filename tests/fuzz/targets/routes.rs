#![no_main]
netsetgo_fuzz::target!(netsetgo::host::fuzzing::routes);
